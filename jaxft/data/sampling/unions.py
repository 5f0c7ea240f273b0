"""Unions of image sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxft.data.readers.image_set import ImageSet, joined_fingerprint


def join_sets(sets: Mapping[str, ImageSet]) -> ImageSet:
    """Returns the union of image sets. The names of its classes and images are 'set/class' and 'set/id'.

    The images keep their splits, even if only some of the sets have a test or validation split.
    """
    names = tuple(f"{key}/{name}" for key, images in sets.items() for name in images.class_names)
    before = np.cumsum([0, *(len(images.class_names) for images in sets.values())])
    return ImageSet(
        np.concatenate([images.images for images in sets.values()]),
        np.concatenate([images.labels + first for images, first in zip(sets.values(), before)]).astype(np.int32),
        names,
        tuple(f"{key}/{image_id}" for key, images in sets.items() for image_id in images.ids),
        np.concatenate([images.subsets for images in sets.values()]),
        joined_fingerprint(*(f"{key} {images.fingerprint}" for key, images in sets.items())),
        tuple((f"{key}/{name}", why) for key, images in sets.items() for name, why in images.skipped),
        notes=tuple(note for images in sets.values() for note in images.notes),
    )


def set_names(data: Sequence[str]) -> list[str]:
    """Returns a short name of each data set: its file name without suffix, numbered if several have the same name."""
    names: list[str] = []
    for location in data:
        stem = Path(location).stem.replace("/", "-")
        number = sum(name == stem or name.startswith(f"{stem}-") for name in names)
        names.append(f"{stem}-{number + 1}" if stem in names else stem)
    return names
