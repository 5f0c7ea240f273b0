"""The result of a draw: images, their split, and its manifest."""

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
    """The images of a trial, and their split into training, validation and test images.

    Attributes:
      images: the images with their true labels, and classes and pixels after all data factors.
      split: the split; its labels may have noise.
      requested: the images in the config.
      spec: the same with the names of the selected classes.
      seed, fold: seed and fold of the draw.
      original: the images of the selected classes, as read.
      merged: the merged class of each selected class; a class that is not merged maps to itself.
    """

    images: ImageSet
    split: Split
    requested: Images
    spec: Images
    seed: int
    fold: int
    original: ImageSet
    merged: Mapping[str, str]

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """Returns the split as a dict for JSON.

        - `data`: the names of the data sets, the selected classes `kept` (None for all), and the fingerprint of their
          images at `size_px`.
        - `drawn`: version, seed and fold of the draw, and the config fields that determine it.
        - `classes`: names of the labels.
        - `merged`: name in `classes` of each selected class of the data.
        - `train`, `val`, `test`: `ids` and `labels` of the images.
        - `skipped`: unusable images and the reasons.
        - `split`: digest of the ids and labels.
        - `digest`: digest of the manifest.
        """
        images, split, classes = self.images, self.split, self.spec.classes
        requested = non_default(self.requested)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "data": {
                "names": [self.spec.data, *self.spec.union],
                "fingerprint": self.original.fingerprint,
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
    """Returns 16 hexadecimal digits that identify a manifest; its field 'digest' must be left out."""
    return json_digest(manifest)
