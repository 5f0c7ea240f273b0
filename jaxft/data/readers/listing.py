"""A list of pictures with their classes, as readers return it."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ListedPicture:
    """A picture: its name, the class and part ('' for none) and domain ('' for none) it is of, how to read it.

    What is read is the content of a picture's file, or its pixels [height, width (, 1 or 3)] uint8.
    """

    name: str
    class_name: str
    subset: str
    domain: str
    read: Callable[[], bytes | np.ndarray]


@dataclass(frozen=True)
class Listing:
    """Pictures in one order, whatever they came in.

    Attributes:
      pictures: none twice by name.
      class_names: where what lists them says so; none: those of the pictures, sorted.
      by_name: whether names tell class and part.
      passed_over: files that are no picture by their names.
    """

    pictures: tuple[ListedPicture, ...]
    class_names: tuple[str, ...] | None = None
    by_name: bool = False
    passed_over: tuple[str, ...] = ()


def spellings(counts: Mapping[str, int]) -> list[list[str]]:
    """Returns classes that are one word spelled in several ways, the most frequent first of each.

    Case, Unicode's forms, and spaces, hyphens and underscores make no difference; single characters do: 'a' and 'A'.
    """
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(_plain(name), []).append(name)
    return [sorted(names, key=lambda name: (-counts[name], name)) for names in groups.values() if len(names) > 1]


def _plain(name: str) -> str:
    form = unicodedata.normalize("NFKC", name)
    return " ".join(re.split(r"[\s_-]+", form.casefold() if len(form) > 1 else form)).strip()
