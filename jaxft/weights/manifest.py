"""What belongs to a set of weights besides its numbers, and the record of it inside a file."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.core.digests import sha256_of
from jaxft.core.errors import UserError
from jaxft.models import Preprocessing

METADATA_KEY = "jaxft"
FIELDS = ("model", "preprocessing", "class_names", "origin", "layout", "assumed")
OPTIONAL_FIELDS = ("resize_px", "naming")


@dataclass(frozen=True)
class Manifest:
    """What belongs to a set of weights besides its numbers.

    Attributes:
      file: the file's name.
      sha256: that of the whole file.
      model: the name of the network.
      preprocessing: what the network expects of images.
      class_names: names of the classes, in the order of the outputs.
      origin: where the weights come from.
      layout: that of the file: 'torch' has convolutions OIHW and dense layers [out, in], 'keras' and 'flax' ours.
      assumed: whether the file does not say its preprocessing, so that the architecture's usual one was taken.
      metadata: the file's own texts (safetensors' `__metadata__`), kept so that an export has them again.
      format: the file's format.
      checked: what the file's bits were compared with; empty if nothing is known of it.
      resize_px: the shorter side that pictures are resized to before their center is cut out; None: the size that the
        network takes.
      naming: how published files call the tensors, which an export has again: 'torchvision', 'timm'.
    """

    file: str
    sha256: str
    model: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()
    origin: str = ""
    layout: str = "torch"
    assumed: bool = False
    metadata: tuple[tuple[str, str], ...] = ()
    format: str = "safetensors"
    checked: str = ""
    resize_px: int | None = None
    naming: str = ""

    def to_json(self) -> str:
        """Returns the manifest as it is kept inside a file."""
        fields = dataclasses.asdict(self)
        return json.dumps({name: fields[name] for name in (*FIELDS, *(n for n in OPTIONAL_FIELDS if fields[n]))})


def write_record(manifest: Manifest, tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the metadata of a file that holds `tensors`: the manifest with their digest, and the file's own texts."""
    record = json.loads(manifest.to_json()) | {"tensors_sha256": digest_of(tensors)}
    record["record_sha256"] = _digest_of_record(record)
    return dict(manifest.metadata) | {METADATA_KEY: json.dumps(record)}


def read_record(path: str | Path, text: str) -> dict[str, Any]:
    """Returns the record that `save_weights` kept in the metadata of the file at `path`, after checking it.

    Raises:
      UserError: the record is damaged.
    """
    try:
        record = json.loads(text)
        whole = record.pop("record_sha256") == _digest_of_record(record)
    except (ValueError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"the weight file {str(path)!r} is damaged: its record differs from that written.")
    return record


def manifest_of_record(record: Mapping[str, Any], file: str, sha256: str) -> Manifest:
    """Returns the manifest of a file from the record inside it."""
    preprocessing = record["preprocessing"] | {name: tuple(record["preprocessing"][name]) for name in ("mean", "std")}
    return Manifest(
        file,
        sha256,
        record["model"],
        Preprocessing(**preprocessing),
        tuple(record["class_names"]),
        record["origin"],
        record["layout"],
        record["assumed"],
        resize_px=record.get("resize_px"),
        naming=record.get("naming", ""),
    )


def _digest_of_record(record: Mapping[str, Any]) -> str:
    return sha256_of(json.dumps(record, sort_keys=True))


def digest_of(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 of names, shapes and bytes of tensors, in the order of their names."""
    contents: list[Any] = []
    for name in sorted(tensors):
        contents += [f"{name} {tensors[name].dtype} {tensors[name].shape}\n", tensors[name]]
    return sha256_of(*contents)
