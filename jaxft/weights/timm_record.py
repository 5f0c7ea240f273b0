"""The record that timm stores beside a weight file: `config.json` with the architecture and its `pretrained_cfg`."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.core.errors import UserError
from jaxft.core.reading import DAMAGE, read_file
from jaxft.models import Preprocessing, list_models
from jaxft.models.class_names import CLASS_NAMES

FILE = "config.json"
MOST_BYTES = 1 << 20  # of a record
INTERPOLATION = "bilinear"  # of jaxft


@dataclass(frozen=True)
class TimmRecord:
    """Facts about weights, as timm records them.

    Attributes:
      model: name of the network in jaxft.
      preprocessing: the preprocessing that the weights expect.
      resize_px: shorter side of the image before the center crop, in pixels.
      class_names: names of the classes; empty if the record does not have them.
      origin: name of the weights in timm.
      interpolation: how timm resizes images, such as 'bicubic'.
    """

    model: str
    preprocessing: Preprocessing
    resize_px: int
    class_names: tuple[str, ...]
    origin: str
    interpolation: str

    def notes(self, file: str) -> tuple[str, ...]:
        """Returns a note if timm resizes images in another way than jaxft. `file` is the name of the weight file."""
        if self.interpolation == INTERPOLATION:
            return ()
        return (
            f"timm resizes images for {file} by {self.interpolation!r} interpolation; jaxft resizes by "
            f"{INTERPOLATION!r}.",
        )


def read_timm_record(weights: Path) -> TimmRecord | None:
    """Returns the record beside a weight file; None if there is no `config.json` of timm.

    Raises:
      UserError: the record is damaged.
    """
    path = weights.parent / FILE
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return None
    try:
        record = json.loads(read_file(path, MOST_BYTES))
        json.dumps(record, ensure_ascii=False).encode()  # fails for texts that are not Unicode
        if not isinstance(record, dict) or "pretrained_cfg" not in record:
            return None
        return _record_of(record["architecture"], record["pretrained_cfg"], record)
    except DAMAGE:
        raise UserError(
            f"{str(path)!r} is not a record of timm: it needs 'architecture', and 'pretrained_cfg' with input_size, "
            "mean, std and crop_pct; correct it or remove it."
        ) from None


def _record_of(architecture: str, config: dict[str, Any], record: dict[str, Any]) -> TimmRecord:
    _, height, width = (int(side) for side in config["input_size"])
    mean, std = (tuple(float(value) for value in config[name]) for name in ("mean", "std"))
    values_are_valid = all(map(math.isfinite, (*mean, *std))) and min(std) > 0
    if height != width or len(mean) != 3 or len(std) != 3 or not values_are_valid:
        raise ValueError
    name = f"{architecture}_timm"  # where timm's network of this name computes differently
    model = name if name in list_models() else architecture
    num_classes = int(config.get("num_classes") or record["num_classes"])
    tag = str(config.get("tag") or "")
    class_names = tuple(str(label) for label in config.get("label_names") or ())
    if not class_names and tag.endswith("in1k") and num_classes == len(CLASS_NAMES["imagenet"]):
        class_names = CLASS_NAMES["imagenet"]
    return TimmRecord(
        model=model,
        preprocessing=Preprocessing(height, mean, std),
        resize_px=math.floor(height / float(config["crop_pct"])),
        class_names=class_names if len(class_names) == num_classes else (),
        origin=f"timm/{architecture}.{tag}" if tag else f"timm/{architecture}",
        interpolation=str(config.get("interpolation") or INTERPOLATION),
    )
