"""A list of images with their classes, one of the two results of a reader."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxft.data.readers.layout import Layout


@dataclass(frozen=True)
class ListedImage:
    """An image that is not read yet.

    Attributes:
      name: unique name, such as the path of the file.
      class_name: name of the class.
      subset: the split, 'train', 'val' or 'test', or '' if the data have no splits.
      domain: the domain, or '' if the data have no domains.
      read: returns the content of the image file, or the pixels [height, width (, 1 or 3)] uint8.
    """

    name: str
    class_name: str
    subset: str
    domain: str
    read: Callable[[], bytes | np.ndarray]


@dataclass(frozen=True)
class Listing:
    """The images at a location, in a fixed order.

    Attributes:
      images: the images, with distinct names.
      class_names: the classes that the data declare. If None, the classes of the images, sorted.
      by_name: whether the name of an image determines its class and split.
      skipped_files: files whose names have no image suffix.
      layout: the meaning of the folders, if the images are in class folders.
    """

    images: tuple[ListedImage, ...]
    class_names: tuple[str, ...] | None = None
    by_name: bool = False
    skipped_files: tuple[str, ...] = ()
    layout: Layout | None = None


def spellings(counts: Mapping[str, int]) -> list[list[str]]:
    """Returns the groups of class names that are spellings of one name, each with the most frequent spelling first.

    Spellings differ only in case, in the Unicode form, or in spaces, hyphens and underscores. Names of one character
    that differ in case, such as 'a' and 'A', are distinct classes.
    """
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(_plain(name), []).append(name)
    return [sorted(names, key=lambda name: (-counts[name], name)) for names in groups.values() if len(names) > 1]


def _plain(name: str) -> str:
    form = unicodedata.normalize("NFKC", name)
    return " ".join(re.split(r"[\s_-]+", form.casefold() if len(form) > 1 else form)).strip()
