"""Data checks: problems and unusual properties of an image set. Every image is read, and nothing is stored.

Near duplicates are images with similar perceptual hashes (Zauner 2010, "Implementation and benchmarking of perceptual
image hash functions", section 3.2.1: the signs of the lowest 8 x 8 cosine frequencies of the 32 x 32 gray image,
relative to their median). At most `NEAR_BITS` of the 64 bits may differ, and the 16 x 16 gray versions must correlate
by at least `NEAR_CORRELATION`.
"""

import collections
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from jaxft.config import Images
from jaxft.core.events import ImagesChecked, Listener, Working, ignore
from jaxft.core.text import plural
from jaxft.data.readers import oddities, pictures
from jaxft.data.readers.arrays import Arrays
from jaxft.data.readers.attempts import try_each
from jaxft.data.readers.image_sets import find_images
from jaxft.data.readers.listing import ListedImage, Listing, spellings
from jaxft.data.readers.pictures import content_hash

HASH_SIDE = 32
LOW = 8  # frequencies per side
SIDE = 16  # of the gray versions that are compared, in pixels
NEAR_BITS = 4  # of 64; `near_pairs` uses one band more
NEAR_CORRELATION = 0.98
FLAT = 2.0  # standard deviation, in gray levels, below which images are not compared
CHUNK = 1024  # images that are compared with others at a time

UNREADABLE, DAMAGED, SPELLING = "cannot be read", "readable, but damaged", "class with several spellings"
EMPTY, LOST = "folder without images", "class without readable images"
MISSING, SKIPPED, UNLABELED = "class missing in a split", "skipped file", "images without a class"
SAME_ACROSS, NEAR_ACROSS = "identical in two splits", "nearly identical in two splits"
SAME_ANYWHERE, NEAR_ANYWHERE = "identical", "nearly identical"
SAME_OTHER_CLASS, SAME_WITHIN = "identical in two classes", "identical in one split"


@dataclass(frozen=True)
class Finding:
    """All findings of one kind.

    Attributes:
      kind: the kind, such as 'cannot be read'.
      is_problem: whether the user should act; otherwise jaxft handles the property, and the finding is a note.
      items: (name of the image or class, details) of each finding.
    """

    kind: str
    is_problem: bool
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """Result of a data check.

    Attributes:
      data: the location of the images.
      num_pictures: number of images.
      classes, subsets, domains: number of images of each class, of each split, and of each domain.
      findings: the findings, without kinds that do not occur.
      checks_damage: whether damaged JPEG data could be detected, which needs simplejpeg.
    """

    data: str
    num_pictures: int
    classes: Mapping[str, int]
    subsets: Mapping[str, int]
    domains: Mapping[str, int]
    findings: tuple[Finding, ...]
    checks_damage: bool

    @property
    def is_clean(self) -> bool:
        """Returns whether no finding is a problem."""
        return not any(finding.is_problem for finding in self.findings)


def check_images(spec: Images, emit: Listener = ignore) -> Report:
    """Returns the problems and unusual properties of the images at `spec.data`. Nothing is stored or changed.

    Raises:
      UserError: the images cannot be listed.
    """
    data = find_images(spec)
    candidates = list(_from_arrays(data) if isinstance(data, Arrays) else _from_listing(data))
    classes = [candidate.class_name for candidate in candidates]
    subsets = [candidate.subset for candidate in candidates]

    results = try_each(
        lambda candidate: candidate.inspect(),
        candidates,
        lambda done: emit(ImagesChecked(repr(spec.data), done, len(candidates))),
    )
    unreadable = [(candidate.name, why) for candidate, (_, why) in zip(candidates, results) if why is not None]
    images = [
        _Image(candidate.name, candidate.subset, candidate.class_name, inspected)
        for candidate, (inspected, why) in zip(candidates, results)
        if why is None
    ]
    class_counts = collections.Counter(classes)
    traits = dict.fromkeys(trait for image in images for trait in image.inspected.traits)
    findings = [
        Finding(UNREADABLE, True, tuple(unreadable)),
        Finding(
            DAMAGED, True, tuple((image.name, image.inspected.damage) for image in images if image.inspected.damage)
        ),
        Finding(LOST, True, tuple(_lost(class_counts, images))),
        Finding(SPELLING, True, tuple(_misspelled(class_counts))),
        Finding(MISSING, True, tuple(_missing(classes, subsets))),
        *_duplicates(images, has_splits=len(set(subsets)) > 1, emit=emit),
        *(
            Finding(trait, False, tuple((image.name, "") for image in images if trait in image.inspected.traits))
            for trait in traits
        ),
    ]
    if isinstance(data, Listing) and data.layout is not None:
        unlabeled = data.layout.unlabeled.items()
        findings.insert(0, Finding(EMPTY, True, tuple((name, "") for name in data.layout.empty)))
        findings.append(Finding(UNLABELED, False, tuple((name, plural(count, "image")) for name, count in unlabeled)))
    if isinstance(data, Listing):
        findings.append(Finding(SKIPPED, False, tuple((name, "not an image suffix") for name in data.skipped_files)))
    return Report(
        data=spec.data,
        num_pictures=len(candidates),
        classes=dict(sorted(class_counts.items())),
        subsets=dict(collections.Counter(subset for subset in subsets if subset)),
        domains=dict(collections.Counter(candidate.domain for candidate in candidates if candidate.domain)),
        findings=tuple(finding for finding in findings if finding.items),
        checks_damage=oddities.can_find_damage(),
    )


# --- one image --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Inspected:
    """Properties of a readable image; `gray` is [SIDE, SIDE] uint8."""

    content: str
    traits: Sequence[str]
    damage: str
    hash: int
    gray: np.ndarray


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A listed image; `inspect` reads it, and fails if it is unreadable."""

    name: str
    class_name: str
    subset: str
    domain: str
    inspect: Callable[[], _Inspected]


@dataclass(frozen=True, eq=False)
class _Image:
    """A readable image."""

    name: str
    subset: str
    class_name: str
    inspected: _Inspected


def _from_listing(listing: Listing) -> Iterator[_Candidate]:
    for image in listing.images:
        yield _Candidate(
            image.name, image.class_name, image.subset, image.domain, functools.partial(_inspect_listed, image)
        )


def _from_arrays(arrays: Arrays) -> Iterator[_Candidate]:
    for i, (label, subset) in enumerate(zip(arrays.labels, arrays.subsets)):
        inspect = functools.partial(_inspect_array, arrays.pixels[i])
        yield _Candidate(f"{subset}/{i}", arrays.class_names[label], str(subset), "", inspect)


def _inspect_listed(image: ListedImage) -> _Inspected:
    content = image.read()
    if isinstance(content, np.ndarray):
        return _inspect_array(content)
    small = pictures.small_gray(content, HASH_SIDE)
    traits = oddities.traits(content, PurePosixPath(image.name).suffix)
    damage = oddities.damage(content)
    return _Inspected(content_hash(content), traits, damage, perceptual_hash(small), _halved(small))


def _inspect_array(pixels: np.ndarray) -> _Inspected:
    from PIL import Image

    flat = pixels.reshape(pixels.shape[:2]) if pixels.ndim == 2 or pixels.shape[-1] == 1 else pixels
    small = pictures.gray(Image.fromarray(flat), HASH_SIDE)
    return _Inspected(content_hash(pixels), (), "", perceptual_hash(small), _halved(small))


def _halved(gray: np.ndarray) -> np.ndarray:
    return gray.reshape(SIDE, 2, SIDE, 2).mean((1, 3)).round().astype(np.uint8)


def perceptual_hash(gray: np.ndarray) -> int:
    """Returns a hash of 64 bits of `gray: [32, 32] uint8`. Most bits agree if two images look the same."""
    from scipy.fft import dctn

    low = dctn(gray.astype(np.float32))[:LOW, :LOW]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


# --- classes ----------------------------------------------------------------------------------------------------


def _lost(counts: Mapping[str, int], images: Sequence[_Image]) -> Iterator[tuple[str, str]]:
    """Yields the classes of which no image can be read."""
    readable = {image.class_name for image in images}
    for name in sorted(set(counts) - readable):
        yield name, plural(counts[name], "image")


def _misspelled(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for most_frequent, *others in spellings(counts):
        for name in others:
            yield (
                ascii(name)[1:-1],
                f"{plural(counts[name], 'image')}; {most_frequent!a} has {counts[most_frequent]:,}",
            )


def _missing(classes: Sequence[str], subsets: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the classes that are in one split and not in another."""
    classes_of_subset: dict[str, set[str]] = {}
    for name, subset in zip(classes, subsets):
        classes_of_subset.setdefault(subset or "train", set()).add(name)
    for name in sorted(set(classes)):
        present = [subset for subset, names in classes_of_subset.items() if name in names]
        absent = [subset for subset, names in classes_of_subset.items() if name not in names]
        if absent:
            yield name, f"in {' and '.join(sorted(present))}, not in {' and '.join(sorted(absent))}"


# --- duplicates -------------------------------------------------------------------------------------------------


def _duplicates(images: Sequence[_Image], has_splits: bool, emit: Listener) -> list[Finding]:
    """Returns the identical and nearly identical images.

    If the data have splits, duplicates in two splits are the problem. Otherwise all duplicates are, because a later
    split may separate them.
    """
    across, within, other_class = [], [], []
    rows_by_content: dict[str, list[int]] = {}
    images = sorted(images, key=lambda image: image.subset not in ("train", ""))  # findings name the later image
    for row, image in enumerate(images):
        rows_by_content.setdefault(image.inspected.content, []).append(row)
    for rows in rows_by_content.values():
        for row, later_row in itertools.combinations(rows[:CHUNK], 2):
            first, second = images[row], images[later_row]
            if first.class_name != second.class_name:
                other_class.append(
                    (second.name, f"{second.class_name!r}; same as {first.name} of {first.class_name!r}")
                )
            if not has_splits or first.subset != second.subset:
                across.append((second.name, f"same as {first.name}"))
            elif first.class_name == second.class_name:
                within.append((second.name, f"same as {first.name}"))
    emit(Working("comparing images"))
    near = [
        (images[later_row].name, f"nearly the same as {images[row].name} ({bits} of 64 bits differ)")
        for row, later_row, bits in near_pairs(
            np.array([image.inspected.hash for image in images], np.uint64),
            np.array([image.inspected.gray for image in images], np.uint8).reshape(-1, SIDE * SIDE),
            np.array([image.subset for image in images]) if has_splits else None,
        )
        if images[row].inspected.content != images[later_row].inspected.content
    ]
    return [
        Finding(SAME_ACROSS if has_splits else SAME_ANYWHERE, True, tuple(sorted(across))),
        Finding(SAME_OTHER_CLASS, True, tuple(sorted(other_class))),
        Finding(NEAR_ACROSS if has_splits else NEAR_ANYWHERE, True, tuple(sorted(near))),
        Finding(SAME_WITHIN, False, tuple(sorted(within))),
    ]


def near_pairs(hashes: np.ndarray, gray: np.ndarray, subsets: np.ndarray | None) -> list[tuple[int, int, int]]:
    """Returns the pairs of near duplicates: (row, later row, number of bits that differ).

    Two hashes that differ in at most `NEAR_BITS` bits agree in at least one of `NEAR_BITS` + 1 bands of bits. So only
    images that share a band are compared.

    Args:
      hashes: [n] uint64, perceptual hashes.
      gray: [n, pixels] uint8, small gray versions of the images.
      subsets: [n], the split of each image; only pairs in two splits count. If None, all pairs count.
    """
    level = gray.astype(np.float32)
    level -= level.mean(axis=1, keepdims=True)
    spread = level.std(axis=1)
    level /= np.maximum(spread, 1e-6)[:, None] * np.sqrt(level.shape[1])
    is_compared = spread >= FLAT
    pairs: dict[tuple[int, int], int] = {}
    edges = np.linspace(0, 64, NEAR_BITS + 2).astype(np.uint64)
    for low, high in itertools.pairwise(edges):
        band = (hashes >> low) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        order = order[is_compared[order]]
        for group in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            for begin in range(0, len(group) - 1, CHUNK):
                chunk = group[begin : begin + CHUNK]
                bits = np.bitwise_count(hashes[chunk, None] ^ hashes[None, group])
                near = (bits <= NEAR_BITS) & (chunk[:, None] < group[None, :])
                if subsets is not None:
                    near &= subsets[chunk, None] != subsets[None, group]
                for a, b in np.argwhere(near):
                    row, later_row = int(chunk[a]), int(group[b])
                    if (row, later_row) not in pairs and level[row] @ level[later_row] >= NEAR_CORRELATION:
                        pairs[row, later_row] = int(bits[a, b])
    return sorted((row, later_row, bits) for (row, later_row), bits in pairs.items())
