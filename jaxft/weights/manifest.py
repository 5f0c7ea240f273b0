"""The manifest of weights: their metadata, and the record of it in a weight file."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.core.digests import sha256_of
from jaxft.core.errors import UserError
from jaxft.core.reading import DAMAGE
from jaxft.core.text import some_of
from jaxft.models import Preprocessing
from jaxft.models.class_names import imagenet_classes

METADATA_KEY = "jaxft"
FIELDS = ("model", "preprocessing", "class_names", "origin", "layout", "assumed")
MOST_NAMED = 3  # foreign tensors that a note names
OPTIONAL_FIELDS = ("resize_px", "naming")
MOST_PX = 16_384  # of the side of an image; also bounds the other numbers of a preprocessing


@dataclass(frozen=True)
class Manifest:
    """Metadata of weights.

    Attributes:
      file: name of the file.
      sha256: sha256 of the file.
      model: name of the network.
      preprocessing: the preprocessing that the network expects.
      class_names: names of the classes, in the order of the outputs.
      origin: where the weights come from.
      layout: layout of the tensors: 'torch' (convolutions OIHW, dense layers [out, in]), or 'keras' or 'flax' (HWIO,
        [in, out]).
      assumed: whether the file has no preprocessing, and the default of the network is assumed.
      metadata: further texts in the metadata of the file; an export contains them again.
      format: format of the file.
      checked: the integrity check that the file passed, as a phrase; empty if none was possible.
      resize_px: shorter side of the image before the center crop, in pixels. If None, the input size of the network.
      naming: naming of the tensors in the file, such as 'torchvision' or 'timm'; an export uses it again.
      foreign: names of tensors in the file that belong to no part of the network, such as `criterion.weight`.
      notes: sentences about choices in reading the file, such as a removed prefix, for the user.
      num_classes: number of classes of the classifier in the file; None without a classifier, or before a file is read.
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
    foreign: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    num_classes: int | None = None

    @property
    def wordnet_ids(self) -> tuple[str, ...]:
        """Returns the WordNet ids of the classes, such as 'n01440764', if these are the classes of ImageNet-1k."""
        ids = imagenet_classes()
        return tuple(ids) if self.class_names == tuple(ids.values()) else ()

    def to_json(self) -> str:
        """Returns the manifest as JSON, as it is stored in a file."""
        fields = dataclasses.asdict(self)
        return json.dumps({name: fields[name] for name in (*FIELDS, *(n for n in OPTIONAL_FIELDS if fields[n]))})

    def without_foreign(self) -> "Manifest":
        """Returns the manifest for reading only the backbone. A note lists the foreign tensors, which are ignored."""
        if not self.foreign:
            return self
        tensors = "1 tensor, which belongs" if len(self.foreign) == 1 else f"{len(self.foreign)} tensors, which belong"
        note = f"jaxft ignores {tensors} to no part of {self.model}: {some_of(self.foreign, MOST_NAMED)}."
        return dataclasses.replace(self, foreign=(), notes=(*self.notes, f"in {self.file}, {note}"))


def write_record(manifest: Manifest, tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the metadata of a file: the manifest with a digest of `tensors`, and the further texts of the manifest.

    Args:
      manifest: the manifest.
      tensors: arrays of any shape by tensor name.
    """
    record = json.loads(manifest.to_json()) | {"tensors_sha256": digest_of(tensors)}
    record["record_sha256"] = _digest_of_record(record)
    return dict(manifest.metadata) | {METADATA_KEY: json.dumps(record)}


def read_record(path: str | Path, text: str) -> dict[str, Any]:
    """Returns the record in the metadata `text` of the weight file `path`, which `write_record` wrote.

    Raises:
      UserError: the record is damaged, or a value is missing or has a wrong type.
    """
    try:
        record = json.loads(text)
        is_intact = record.pop("record_sha256") == _digest_of_record(record)
    except DAMAGE:
        is_intact = False
    if not is_intact:
        raise UserError(
            f"the weight file {str(path)!r} is damaged: its metadata does not match the sha256 of the metadata; "
            "download it or train it again."
        )
    wrong = [
        name
        for name, is_valid in VALID.items()
        if not (is_valid(record[name]) if name in record else name in OPTIONAL_FIELDS)
    ]
    if wrong:
        raise UserError(
            f"the weight file {str(path)!r} has metadata that jaxft did not write: 'jaxft' has a missing or wrong "
            f"{some_of([repr(name) for name in wrong])}."
        )
    return record


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_pixels(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST_PX


def _is_preprocessing(value: Any) -> bool:
    """Returns whether a value has the fields of a `Preprocessing`, with numbers that a network can use."""
    try:
        numbers = [*value["mean"], *value["std"], value["value_range"]]
        return (
            value.keys() == {field.name for field in dataclasses.fields(Preprocessing)}
            and len(value["mean"]) == len(value["std"]) == 3
            and all(type(number) in (int, float) and abs(number) <= MOST_PX for number in numbers)
            and min(*value["std"], value["value_range"]) > 0
            and value["channel_order"] in ("rgb", "bgr")
            and _is_pixels(value["size_px"])
        )
    except (TypeError, KeyError, AttributeError):
        return False


VALID: Mapping[str, Callable[[Any], bool]] = {
    "model": _is_text,
    "preprocessing": _is_preprocessing,
    "class_names": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "origin": _is_text,
    "layout": lambda value: value in ("torch", "keras", "flax"),
    "assumed": lambda value: isinstance(value, bool),
    "tensors_sha256": _is_text,
    "resize_px": _is_pixels,
    "naming": _is_text,
}


def manifest_of_record(record: Mapping[str, Any], file: str, sha256: str) -> Manifest:
    """Returns the manifest of the file named `file` from the record in its metadata."""
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
    """Returns the sha256 of the names, dtypes, shapes and bytes of tensors of any shape, in the order of the names."""
    contents: list[Any] = []
    for name in sorted(tensors):
        contents += [f"{name} {tensors[name].dtype} {tensors[name].shape}\n", tensors[name]]
    return sha256_of(*contents)
