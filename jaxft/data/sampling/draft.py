"""What data factors work on: the images of a trial and their split, as far as they are drawn."""

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
    """Images and their split on the way from what a config says of them to what a trial has.

    Attributes:
      spec: what the config says; its classes are named once they are chosen.
      seed, fold: what everything is drawn by.
      where: the config's field that `spec` is, for errors.
      size_px: side of the images that are read; if None, their own.
      reader: reads image sets.
      kept: the images of the classes that are used, as they were read.
      merged: for each of these classes, the one it is merged into (itself, if none are).
      images: the images, with classes and pixels as the factors so far have made them.
      split: which of them are trained, selected and tested on, and the labels that are trained on.
    """

    spec: Images
    seed: int
    fold: int
    where: str
    size_px: int | None
    reader: ImageReader
    kept: ImageSet
    merged: Mapping[str, str]
    images: ImageSet
    split: Split

    def with_spec(self, spec: Images) -> "Draft":
        """Returns the draft with the images of another spec, of which none are used yet."""
        images = self.reader.read(spec, self.size_px)
        merged = {name: name for name in images.class_names}
        return replace(self, spec=spec, kept=images, merged=merged, images=images, split=no_split(images))

    def with_rows(self, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> "Draft":
        """Returns the draft with other images to train, select and test on: ascending rows without overlap."""
        return replace(self, split=make_split(self.images, (train, val, test), self.split.labels))

    def with_labels(self, labels: np.ndarray) -> "Draft":
        """Returns the draft with other labels to train on: [n], of all images."""
        rows = self.split.train, self.split.val, self.split.test
        return replace(self, split=make_split(self.images, rows, labels))

    def with_pixels(self, how: tuple[str, ...], transform: Callable[[np.ndarray], np.ndarray]) -> "Draft":
        """Returns the draft with other pixels.

        Args:
          how: what the change is and all that it depends on, as texts. It becomes part of the images' fingerprint, so
            that the same pixels are made once for all trials.
          transform: from [n, size, size, 3] uint8 to the same shape and type.
        """
        fingerprint = derived_fingerprint(self.images, *how)

        def make() -> ImageSet:
            return replace(self.images, images=transform(self.images.images), fingerprint=fingerprint)

        return replace(self, images=self.reader.once(("pixels", fingerprint), make))


@dataclass(frozen=True)
class DataFactor:
    """A step from what a config says of images to the images of a trial.

    Attributes:
      apply: (draft, options) -> draft; the same draft, if the options ask for nothing. The options are those of the
        section `factors.<name>`, or all of `Images` for a factor without a section.
      is_drawn: whether a manifest says what it would draw, so that it is left out with one.
    """

    apply: Callable[[Draft, Any], Draft]
    is_drawn: bool = False
