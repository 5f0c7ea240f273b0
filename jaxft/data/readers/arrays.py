"""Labeled images of one size as arrays, one of the two results of a reader."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.text import plural


@dataclass(frozen=True, eq=False)
class Arrays:
    """Labeled images of one size.

    Attributes:
      pixels: [n, height, width (, 1 or 3)] uint8.
      labels: [n] integers, indices into `class_names`.
      class_names: the names of the classes.
      subsets: [n], the split of each image: 'train', 'val' or 'test', or '' if the data have no splits.
    """

    pixels: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    subsets: np.ndarray


@dataclass(frozen=True, eq=False)
class SubsetArrays:
    """The images of one split of a data set.

    Attributes:
      subset: 'train', 'val' or 'test', or '' if the data have no splits.
      pixels: [n, height, width (, 1 or 3)] uint8.
      labels: [n] integers.
    """

    subset: str
    pixels: np.ndarray
    labels: np.ndarray


def join_subsets(path: Path, subsets: Sequence[SubsetArrays], class_names: Sequence[str] | None = None) -> Arrays:
    """Returns the images of all splits as one.

    Args:
      path: location of the images, for error messages.
      subsets: the splits, at least one.
      class_names: the names of the labels. If None, the numbers are the names: 0 to the largest label, or if a label
        is negative, the labels themselves.

    Raises:
      UserError: there are no images, or a label has no name.
    """
    labels = np.concatenate([subset.labels.astype(np.int64) for subset in subsets])
    if not len(labels):
        raise UserError(f"{str(path)!r} contains no images.")
    if class_names is None and labels.min() < 0:  # -1 is a class like any other
        numbers, labels = np.unique(labels, return_inverse=True)
        class_names = [str(number) for number in numbers]
    if class_names is None:
        class_names = [str(label) for label in range(int(labels.max()) + 1)]
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise UserError(
            f"{str(path)!r} has labels from {labels.min()} to {labels.max()}, but "
            f"{plural(len(class_names), 'class name')}; labels must be from 0 to {len(class_names) - 1}."
        )
    pixels = np.concatenate([subset.pixels for subset in subsets])
    names = np.concatenate([np.full(len(subset.pixels), subset.subset) for subset in subsets])
    return Arrays(pixels, labels, tuple(class_names), names)
