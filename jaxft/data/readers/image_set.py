"""Labeled images of one size, as arrays."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.config import Images
from jaxft.core.digests import sha256_of
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.events import Listener, print_warnings
from jaxft.core.text import some_of
from jaxft.data.readers.decoded import MOST_UNKEPT_BYTES, decoded

STATISTICS_BLOCK = 1024  # images
FINGERPRINT_DIGITS = 32
MOST_NAMED = 12  # classes in an error


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labeled images, all of one size.

    Attributes:
      images: [n, size, size, 3] uint8, RGB.
      labels: [n] int32, indices into `class_names`.
      class_names: names of the classes that were kept.
      ids: [n] a name for each image that does not depend on which classes were kept.
      subsets: [n] 'train', 'val' or 'test' as the data set divides itself, else ''.
      fingerprint: what identifies the content: bytes, classes, size and resizer.
      skipped: pictures that were left out because they cannot be used: (name, why).
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    subsets: np.ndarray
    fingerprint: str
    skipped: tuple[tuple[str, str], ...] = ()


def keep_classes(images: ImageSet, spec: Images, emit: Listener = print_warnings) -> ImageSet:
    """Returns the images of the classes that `spec` names, labeled anew in the order of the data set."""
    if spec.classes is None:
        return images
    if len(set(spec.classes)) < max(2, len(spec.classes)):
        raise UserError(f"classes {list(spec.classes)} of {spec.data!r}: name two or more, none twice.")
    for name in spec.classes:
        if name not in images.class_names:
            raise UserError(
                f"{spec.data!r} has no class {name!r}{did_you_mean(name, images.class_names)}; "
                f"it has {some_of(images.class_names, MOST_NAMED)}."
            )
    chosen = [label for label, name in enumerate(images.class_names) if name in spec.classes]
    relabel = np.full(len(images.class_names), -1, np.int32)
    relabel[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(relabel[images.labels] >= 0)
    names = tuple(images.class_names[label] for label in chosen)
    fingerprint = fingerprint_of([images.fingerprint, *names])
    return ImageSet(
        take_rows(images.images, rows, fingerprint, emit),
        relabel[images.labels[rows]],
        names,
        tuple(images.ids[row] for row in rows),
        images.subsets[rows],
        fingerprint,
        images.skipped,
    )


def take_rows(images: np.ndarray, rows: np.ndarray, fingerprint: str, emit: Listener) -> np.ndarray:
    """Returns some of `images: [n, size, size, 3]`; what would take much memory is a map on disk of its own."""
    if images[:1].nbytes * len(rows) <= MOST_UNKEPT_BYTES:
        return images[rows]
    kept, _ = decoded(fingerprint, len(rows), images.shape[1], lambda i: images[rows[i]], "some classes", emit)
    return kept


def channel_statistics(images: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean [3], standard deviation [3]) of pixels in [0, 1], of some of `images: [n, h, w, 3] uint8`.

    Counts of the 256 values are summed up block by block, so that no more than a block is in memory.
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
    """Returns 32 hexadecimal digits that identify a sequence of texts, numbers and digests."""
    return sha256_of(*(f"{item}\n" for item in items))[:FINGERPRINT_DIGITS]


def derived_fingerprint(images: ImageSet, *how: str) -> str:
    """Returns the fingerprint of what is made of images in a way that the texts identify."""
    return joined_fingerprint(images.fingerprint, *how)


def joined_fingerprint(*texts: str) -> str:
    """Returns the fingerprint of what texts identify together."""
    return sha256_of("\n".join(texts))[:FINGERPRINT_DIGITS]
