"""What is wrong with a set of images, and what is odd about it: every picture is read, none is kept.

Near duplicates are found by a perceptual hash (Zauner 2010, "Implementation and benchmarking of perceptual image hash
functions", section 3.2.1: the signs of the lowest 8 x 8 cosine frequencies of a gray picture of 32 x 32, about their
median) of which at most `NEAR_BITS` of 64 differ, and confirmed by the correlation of their gray 16 x 16 versions.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from jaxft.config import Images
from jaxft.core.events import ImagesChecked, Listener, Working, ignore
from jaxft.data.readers import oddities, pictures
from jaxft.data.readers.arrays import Arrays
from jaxft.data.readers.attempts import try_each
from jaxft.data.readers.image_sets import find_images
from jaxft.data.readers.listing import Listing, spellings
from jaxft.data.readers.pictures import content_hash

HASH_SIDE = 32
LOW = 8  # frequencies a side
SIDE = 16  # of the gray versions that are compared
NEAR_BITS = 4  # of 64; bands below rely on it
NEAR_CORRELATION = 0.98
FLAT = 2.0  # standard deviation, in gray levels, below which all pictures are alike
PIECE = 1024  # pictures compared with others at a time

READ, DAMAGED, SPELLING = "cannot be read", "read, but damaged", "a class spelled in several ways"
ONLY, SAME, NEAR = "a class missing in a part", "the same picture in two parts", "nearly the same picture in two parts"
SAME_ANY, NEAR_ANY = "the same picture twice", "nearly the same picture twice"
TWO_CLASSES, WITHIN, OVER = "the same picture in two classes", "the same picture twice in a part", "passed over"


@dataclass(frozen=True)
class Finding:
    """What was found of one kind: (picture or class, what of it); a problem, or a note of what is seen to."""

    kind: str
    is_problem: bool
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """What was found in a set of images, and how many pictures it has, of which classes, in which parts and domains."""

    data: str
    num_pictures: int
    classes: Mapping[str, int]
    subsets: Mapping[str, int]
    domains: Mapping[str, int]
    findings: tuple[Finding, ...]
    checks_damage: bool

    @property
    def is_clean(self) -> bool:
        """Tells whether there are no problems."""
        return not any(finding.is_problem for finding in self.findings)


@dataclass(frozen=True, eq=False)
class _Inspected:
    content: str
    traits: Sequence[str]
    damage: str
    hash: int
    small: np.ndarray  # [SIDE, SIDE] uint8


def check_images(spec: Images, emit: Listener = ignore) -> Report:
    """Returns what is wrong with the images at `spec.data`, and odd about them; nothing is kept, nothing is changed.

    Raises a `UserError` where they cannot be listed at all.
    """
    data = find_images(spec)
    items = list(_of_arrays(data) if isinstance(data, Arrays) else _of_listing(data))
    names, classes, subsets, domains, _ = zip(*items)

    seen = try_each(lambda item: item[-1](), items, lambda done: emit(ImagesChecked(repr(spec.data), done, len(items))))
    bad = [(name, why) for name, (_, why) in zip(names, seen) if why is not None]
    good = [
        (name, subset, of, picture)
        for name, subset, of, (picture, why) in zip(names, subsets, classes, seen)
        if why is None
    ]
    counts = collections.Counter(classes)
    findings = [
        Finding(READ, True, tuple(bad)),
        Finding(DAMAGED, True, tuple((name, picture.damage) for name, _, _, picture in good if picture.damage)),
        Finding(SPELLING, True, tuple(_misspelled(counts))),
        Finding(ONLY, True, tuple(_missing(classes, subsets))),
        *_duplicates(good, divided=len(set(subsets)) > 1, emit=emit),
        *(
            Finding(trait, False, tuple((name, "") for name, _, _, picture in good if trait in picture.traits))
            for trait in dict.fromkeys(trait for _, _, _, picture in good for trait in picture.traits)
        ),
    ]
    if isinstance(data, Listing):
        findings.append(Finding(OVER, False, tuple((name, "not a picture, by its name") for name in data.passed_over)))
    return Report(
        spec.data,
        len(items),
        dict(sorted(counts.items())),
        dict(collections.Counter(subset for subset in subsets if subset)),
        dict(collections.Counter(domain for domain in domains if domain)),
        tuple(finding for finding in findings if finding.items),
        oddities.can_find_damage(),
    )


# --- a picture --------------------------------------------------------------------------------------------------

Item = tuple[str, str, str, str, Callable[[], _Inspected]]


def _of_listing(listing: Listing) -> Iterator[Item]:
    """Yields (name, class, part, domain, how to look at it) of each picture."""
    for picture in listing.pictures:

        def inspect(picture: Any = picture) -> _Inspected:
            content = picture.read()
            if isinstance(content, np.ndarray):
                return _inspect_array(content)
            small = pictures.small_gray(content, HASH_SIDE)
            suffix = PurePosixPath(picture.name).suffix
            traits, damage = oddities.traits(content, suffix), oddities.damage(content)
            return _Inspected(content_hash(content), traits, damage, perceptual_hash(small), _halved(small))

        yield picture.name, picture.class_name, picture.subset, picture.domain, inspect


def _of_arrays(arrays: Arrays) -> Iterator[Item]:
    for i, (label, subset) in enumerate(zip(arrays.labels, arrays.subsets)):

        def inspect(i: int = i) -> _Inspected:
            return _inspect_array(arrays.pixels[i])

        yield f"{subset}/{i}", arrays.class_names[label], str(subset), "", inspect


def _inspect_array(pixels: np.ndarray) -> _Inspected:
    from PIL import Image

    flat = pixels.reshape(pixels.shape[:2]) if pixels.ndim == 2 or pixels.shape[-1] == 1 else pixels
    small = pictures.gray(Image.fromarray(flat), HASH_SIDE)
    return _Inspected(content_hash(pixels), (), "", perceptual_hash(small), _halved(small))


def _halved(small: np.ndarray) -> np.ndarray:
    return small.reshape(SIDE, 2, SIDE, 2).mean((1, 3)).round().astype(np.uint8)


def perceptual_hash(gray: np.ndarray) -> int:
    """Returns 64 bits that are nearly the same for pictures that look the same. gray: [32, 32] uint8."""
    from scipy.fft import dctn

    low = dctn(gray.astype(np.float32))[:LOW, :LOW]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


# --- classes ----------------------------------------------------------------------------------------------------


def _misspelled(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for most_frequent, *others in spellings(counts):
        for name in others:
            yield (
                ascii(name)[1:-1],
                f"{counts[name]:,} pictures; elsewhere {most_frequent!a}, {counts[most_frequent]:,}",
            )


def _missing(classes: Sequence[str], subsets: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the classes that are in one part and not in another."""
    of_subset: dict[str, collections.Counter[str]] = {}
    for name, subset in zip(classes, subsets):
        of_subset.setdefault(subset or "train", collections.Counter())[name] += 1
    for name in sorted(set(classes)):
        present = [subset for subset, of in of_subset.items() if of[name]]
        absent = [subset for subset, of in of_subset.items() if not of[name]]
        if absent:
            yield name, f"in {' and '.join(sorted(present))}, not in {' and '.join(sorted(absent))}"


# --- duplicates -------------------------------------------------------------------------------------------------

Good = tuple[str, str, str, _Inspected]


def _duplicates(good: Sequence[Good], divided: bool, emit: Listener) -> list[Finding]:
    """Returns what is twice: across parts where the data are divided, else anywhere, as a split may part them."""
    across, within, classes = [], [], []
    by_content: dict[str, list[int]] = {}
    good = sorted(good, key=lambda item: item[1] not in ("train", ""))  # what is named is not the one to train on
    for row, (_, _, _, seen) in enumerate(good):
        by_content.setdefault(seen.content, []).append(row)
    for rows in by_content.values():
        for one, other in itertools.combinations(rows[:PIECE], 2):
            (name, subset, of, _), (again, its_subset, its_class, _) = good[one], good[other]
            if of != its_class:
                classes.append((again, f"{its_class!r}; it is {name} of {of!r}"))
            if not divided or subset != its_subset:
                across.append((again, f"is {name}"))
            elif of == its_class:
                within.append((again, f"is {name}"))
    emit(Working("comparing pictures"))
    near = [
        (good[other][0], f"is nearly {good[one][0]} ({bits} of 64 bits differ)")
        for one, other, bits in near_pairs(
            np.array([seen.hash for *_, seen in good], np.uint64),
            np.array([seen.small for *_, seen in good], np.uint8).reshape(-1, SIDE * SIDE),
            np.array([subset for _, subset, _, _ in good]) if divided else None,
        )
        if good[one][3].content != good[other][3].content
    ]
    return [
        Finding(SAME if divided else SAME_ANY, True, tuple(sorted(across))),
        Finding(TWO_CLASSES, True, tuple(sorted(classes))),
        Finding(NEAR if divided else NEAR_ANY, True, tuple(sorted(near))),
        Finding(WITHIN, False, tuple(sorted(within))),
    ]


def near_pairs(hashes: np.ndarray, small: np.ndarray, subsets: np.ndarray | None) -> list[tuple[int, int, int]]:
    """Returns the pairs (row, later row, bits that differ) of pictures that look the same, of different parts if any.

    hashes: [n] uint64; small: [n, pixels] uint8. Of two that differ in at most `NEAR_BITS` bits one of `NEAR_BITS` + 1
    bands of the 64 is the same, so that only those that share a band are compared.
    """
    level = small.astype(np.float32)
    level -= level.mean(axis=1, keepdims=True)
    spread = level.std(axis=1)
    level /= np.maximum(spread, 1e-6)[:, None] * np.sqrt(level.shape[1])
    varied = spread >= FLAT
    pairs: dict[tuple[int, int], int] = {}
    edges = np.linspace(0, 64, NEAR_BITS + 2).astype(np.uint64)
    for low, high in itertools.pairwise(edges):
        band = (hashes >> low) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        order = order[varied[order]]
        for group in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            for begin in range(0, len(group) - 1, PIECE):
                some = group[begin : begin + PIECE]
                bits = np.bitwise_count(hashes[some, None] ^ hashes[None, group])
                near = (bits <= NEAR_BITS) & (some[:, None] < group[None, :])
                if subsets is not None:
                    near &= subsets[some, None] != subsets[None, group]
                for a, b in np.argwhere(near):
                    one, other = int(some[a]), int(group[b])
                    if (one, other) not in pairs and level[one] @ level[other] >= NEAR_CORRELATION:
                        pairs[one, other] = int(bits[a, b])
    return sorted((one, other, bits) for (one, other), bits in pairs.items())
