"""An image set: labeled images of one size as arrays, with a fingerprint of their content."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxft.config import Images
from jaxft.core.digests import sha256_of
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.events import Listener, print_warnings
from jaxft.core.text import some_of
from jaxft.data.readers.decoded import MAX_UNCACHED_BYTES, decoded

STATISTICS_BLOCK = 1024  # images in memory at a time
FINGERPRINT_DIGITS = 32
MOST_NAMED = 3  # classes in an error message


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labeled images of one size.

    Attributes:
      images: [n, size, size, 3] uint8, RGB.
      labels: [n] int32, indices into `class_names`.
      class_names: names of the selected classes.
      ids: [n], a unique name of each image; it does not depend on the selection of classes.
      subsets: [n], the split of each image in the data: 'train', 'val' or 'test', or '' if the data have no splits.
      fingerprint: identifies the content: bytes, classes, size and resizer.
      skipped: (name, reason) of each image that was left out because it is unusable.
      folders: which folders are classes, splits and domains, or '' if the images are not in class folders.
      notes: one sentence for each folder or class that was left out.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    subsets: np.ndarray
    fingerprint: str
    skipped: tuple[tuple[str, str], ...] = ()
    folders: str = ""
    notes: tuple[str, ...] = ()


def keep_classes(images: ImageSet, spec: Images, emit: Listener = print_warnings) -> ImageSet:
    """Returns the images of the classes `spec.classes`, with labels renumbered in the order of the data set.

    Raises:
      UserError: a class is unknown or named twice, or fewer than two classes are named.
    """
    if spec.classes is None:
        return images
    if len(set(spec.classes)) < max(2, len(spec.classes)):
        raise UserError(f"'classes' of {spec.data!r} is {list(spec.classes)}; name at least two distinct classes.")
    for name in spec.classes:
        if name not in images.class_names:
            raise UserError(
                f"{spec.data!r} has no class {name!r}{did_you_mean(name, images.class_names)}; its "
                f"{len(images.class_names):,} classes are {some_of(images.class_names, MOST_NAMED)}."
            )
    chosen = [label for label, name in enumerate(images.class_names) if name in spec.classes]
    relabel = np.full(len(images.class_names), -1, np.int32)
    relabel[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(relabel[images.labels] >= 0)
    names = tuple(images.class_names[label] for label in chosen)
    fingerprint = fingerprint_of([images.fingerprint, *names])
    return replace(
        images,
        images=take_rows(images.images, rows, fingerprint, emit),
        labels=relabel[images.labels[rows]],
        class_names=names,
        ids=tuple(images.ids[row] for row in rows),
        subsets=images.subsets[rows],
        fingerprint=fingerprint,
    )


def take_rows(images: np.ndarray, rows: np.ndarray, fingerprint: str, emit: Listener) -> np.ndarray:
    """Returns the images of `rows: [m]`, [m, size, size, 3] uint8, in memory or as a memory map if they are large.

    Args:
      images: [n, size, size, 3] uint8.
      rows: [m] integers.
      fingerprint: identifies the result in the cache.
      emit: receives progress events.
    """
    if images[:1].nbytes * len(rows) <= MAX_UNCACHED_BYTES:
        return images[rows]
    selected, _ = decoded(fingerprint, len(rows), images.shape[1], lambda i: images[rows[i]], "some classes", emit)
    return selected


def channel_statistics(images: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (mean [3], standard deviation [3]) of the channels, for pixels in [0, 1].

    It counts the 256 pixel values in blocks of images, so at most one block is in memory.

    Args:
      images: [n, h, w, 3] uint8.
      rows: [m], the rows of the images that are used.
    """
    counts = np.zeros((3, 256), np.int64)
    for begin in range(0, len(rows), STATISTICS_BLOCK):
        block = images[rows[begin : begin + STATISTICS_BLOCK]]
        for channel in range(3):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    values, total = np.arange(256) / 255, counts.sum(axis=1)
    mean = (counts * values).sum(axis=1) / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return mean, np.sqrt(variance)


def fingerprint_of(items: Iterable[Any]) -> str:
    """Returns 32 hexadecimal digits that identify a sequence of strings and numbers."""
    return sha256_of(*(f"{item}\n" for item in items))[:FINGERPRINT_DIGITS]


def derived_fingerprint(images: ImageSet, *how: str) -> str:
    """Returns the fingerprint of images that are derived from `images`; `how` identifies the derivation."""
    return joined_fingerprint(images.fingerprint, *how)


def joined_fingerprint(*texts: str) -> str:
    """Returns 32 hexadecimal digits that identify the strings together."""
    return sha256_of("\n".join(texts))[:FINGERPRINT_DIGITS]
