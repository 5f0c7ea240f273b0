"""The input and output of data factors: the images of a trial and their split, partly drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxft.config import Images
from jaxft.data.readers.image_set import ImageSet, derived_fingerprint
from jaxft.data.sampling.reading import ImageReader
from jaxft.data.sampling.splits import Split, make_split, no_split


@dataclass(frozen=True, eq=False)
class Draft:
    """The images of a trial and their split after some of the data factors.

    Attributes:
      spec: the images in the config; `spec.classes` has the classes once they are selected.
      seed, fold: seed and fold of all draws.
      where: config field of `spec`, for error messages.
      size_px: side of the images, in pixels. If None, the images keep their size.
      reader: reads image sets.
      original: the images of the selected classes, as read.
      merged: the merged class of each of these classes; a class that is not merged maps to itself.
      images: the images after the factors so far, with their classes and pixels.
      split: the rows of the training, validation and test images, and the labels for training.
    """

    spec: Images
    seed: int
    fold: int
    where: str
    size_px: int | None
    reader: ImageReader
    original: ImageSet
    merged: Mapping[str, str]
    images: ImageSet
    split: Split

    def with_spec(self, spec: Images) -> "Draft":
        """Returns the draft with the images of another spec, and an empty split."""
        images = self.reader.read(spec, self.size_px)
        merged = {name: name for name in images.class_names}
        return replace(self, spec=spec, original=images, merged=merged, images=images, split=no_split(images))

    def with_rows(self, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> "Draft":
        """Returns the draft with other training, validation and test rows: [n] int32 each, ascending and disjoint."""
        return replace(self, split=make_split(self.images, (train, val, test), self.split.labels))

    def with_labels(self, labels: np.ndarray) -> "Draft":
        """Returns the draft with other labels for training: [n] int32, the labels of all images."""
        rows = self.split.train, self.split.val, self.split.test
        return replace(self, split=make_split(self.images, rows, labels))

    def with_pixels(self, how: tuple[str, ...], transform: Callable[[np.ndarray], np.ndarray]) -> "Draft":
        """Returns the draft with transformed pixels. Trials with equal transformed pixels share them.

        Args:
          how: identifies the transformation and everything that it depends on; enters the fingerprint of the images.
          transform: maps pixels [n, size, size, 3] uint8 to the same shape and type.
        """
        fingerprint = derived_fingerprint(self.images, *how)

        def make() -> ImageSet:
            return replace(self.images, images=transform(self.images.images), fingerprint=fingerprint)

        return replace(self, images=self.reader.once(("pixels", fingerprint), make))


@dataclass(frozen=True)
class DataFactor:
    """A step from the images in a config to the images of a trial.

    Attributes:
      apply: function of (draft, options) that returns a draft; the same draft if the options turn the factor off. The
        options are the config section of the factor, or `Images` for a factor without a section.
      is_drawn: whether a manifest contains the result of this factor, so the factor is skipped with a manifest.
    """

    apply: Callable[[Draft, Any], Draft]
    is_drawn: bool = False
