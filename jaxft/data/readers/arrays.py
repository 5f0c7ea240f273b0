"""Images of one size with their labels, as arrays, as some readers return them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxft.core.errors import UserError


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images of one size: pixels [n, height, width (, 1 or 3)] uint8, labels [n], their names, parts [n] or ''."""

    pixels: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    subsets: np.ndarray


@dataclass(frozen=True, eq=False)
class SubsetArrays:
    """The images of one part of a data set, '' if it has no parts: pixels [n, height, width (, 1 or 3)], labels [n]."""

    subset: str
    pixels: np.ndarray
    labels: np.ndarray


def join_subsets(path: Path, subsets: Sequence[SubsetArrays], class_names: Sequence[str] | None = None) -> Arrays:
    """Returns the images of all parts.

    Args:
      path: where they come from, for messages.
      subsets: one or more.
      class_names: the names of the labels; if None, the numbers.

    Raises:
      UserError: there are no images, or a label has no name.
    """
    labels = np.concatenate([subset.labels.astype(np.int64) for subset in subsets])
    if not len(labels):
        raise UserError(f"{str(path)!r} has no images in it.")
    if class_names is None:
        class_names = [str(label) for label in range(int(labels.max()) + 1)]
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise UserError(
            f"{str(path)!r} has labels from {labels.min()} to {labels.max()} for {len(class_names)} classes."
        )
    pixels = np.concatenate([subset.pixels for subset in subsets])
    where = np.concatenate([np.full(len(subset.pixels), subset.subset) for subset in subsets])
    return Arrays(pixels, labels, tuple(class_names), where)
