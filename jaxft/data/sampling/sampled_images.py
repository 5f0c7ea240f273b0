"""What is drawn of images by a seed: the images, their split, and its manifest."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxft.config import DRAWN, Images, non_default
from jaxft.core import version
from jaxft.core.digests import json_digest
from jaxft.data.readers.image_set import ImageSet
from jaxft.data.sampling.splits import Split

FORMAT = "jaxft split"
VERSION = 1
SUBSETS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class SampledImages:
    """Images with classes and pixels as a trial has them, and which of them it trains, selects and is tested on.

    Attributes:
      images: the images; their labels are true ones, those of the split may be noisy.
      split: the split.
      requested: what was asked for; `spec`: the same with its classes by name.
      seed, fold: what it was drawn by.
      kept: the images of these classes, as they were read.
      merged: for each of these classes, the one it is merged into (itself, where none are).
    """

    images: ImageSet
    split: Split
    requested: Images
    spec: Images
    seed: int
    fold: int
    kept: ImageSet
    merged: Mapping[str, str]

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """Returns the split for JSON.

        `data`: what it was drawn from: the names, the classes that were `kept` (none: all), and the fingerprint of
        their images at `size_px`; `drawn`: by what, and the fields that say what; `classes`: the labels' names;
        `merged`: for each class of the data that was used, its name among them; `train`, `val`, `test`: `ids` and
        `labels` of the images; `skipped`: pictures left out, as they could not be read; `split`: the digest of ids and
        labels; `digest`: that of the whole manifest.
        """
        images, split, classes = self.images, self.split, self.spec.classes
        requested = non_default(self.requested)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "data": {
                "names": [self.spec.data, *self.spec.union],
                "fingerprint": self.kept.fingerprint,
                "size_px": images.images.shape[1],
                "kept": None if classes is None else list(classes),
            },
            "drawn": {
                "by": f"jaxft {version.VERSION}",
                "seed": self.seed,
                "fold": self.fold,
                "fields": {name: requested[name] for name in (*DRAWN, "factors") if name in requested},
            },
            "classes": list(images.class_names),
            "merged": dict(self.merged),
            **{
                subset: {"ids": [images.ids[row] for row in rows], "labels": split.labels[rows].tolist()}
                for subset, rows in zip(SUBSETS, (split.train, split.val, split.test))
            },
            "skipped": [list(item) for item in images.skipped],
            "split": split.digest,
        }
        return manifest | {"digest": manifest_digest(manifest)}


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that identify a manifest without its digest."""
    return json_digest(manifest)
