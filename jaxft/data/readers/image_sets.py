"""Labelled images as uint8 arrays, whatever they lie in: the one door to image sets.

Pictures are decoded once, at the size a study works at, and kept in the user's cache folder under the fingerprint of
their bytes, the resizer and the size (`$JAXFT_CACHE` names another folder).
"""

import collections
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.config import Images
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.events import ImagesRead, Listener, print_warnings
from jaxft.data.readers import arrays, tfds
from jaxft.data.readers.archives import is_archive, members_of
from jaxft.data.readers.arrays import Arrays
from jaxft.data.readers.decoded import MOST_UNKEPT_BYTES, decoded
from jaxft.data.readers.listings import TABLES, Listed, Listing, list_members, list_table, spellings
from jaxft.data.readers.pictures import RESIZER, decode, fit, is_hidden, try_each

NATIVE_PX = 32  # of pictures, where neither a config nor a network says their size
NAMED = 5  # of bad pictures, in an error
STATISTICS_BLOCK = 1024  # images


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, all of one size.

    Attributes:
      images: [n, size, size, 3] uint8, RGB.
      labels: [n] int32, indices into `class_names`.
      class_names: names of the classes that were kept.
      ids: [n] a name for each image that does not depend on which classes were kept.
      parts: [n] 'train', 'val' or 'test' as the data set divides itself, else ''.
      fingerprint: what identifies the content: bytes, classes, size and resizer.
      skipped: pictures that were left out because they cannot be used: (name, why).
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    parts: np.ndarray
    fingerprint: str
    skipped: tuple[tuple[str, str], ...] = ()


def load_images(spec: Images, size_px: int | None, emit: Listener = print_warnings) -> ImageSet:
    """Returns the images that `spec` names, at `size_px` (arrays keep their own size where it is None).

    A picture's shorter side is resized (bilinear with antialiasing, Pillow) and the centre cut out. `emit` hears
    how far this is.

    Raises a `UserError` where the data are missing or empty, have fewer than two classes, or, unless `spec.unreadable`
    is 'skip', hold a picture that cannot be read, or a class that is spelt in several ways; the message names it.
    """
    found = find_images(spec)
    if isinstance(found, Arrays):
        everything = _from_arrays(found, spec, size_px, emit)
    else:
        everything = _from_pictures(found, spec, size_px or NATIVE_PX, emit)
    kept = keep_classes(everything, spec, emit)
    if len(kept.class_names) < 2:
        raise UserError(
            f"{spec.data!r} has one class only, {kept.class_names[0]!r}; "
            "classification needs two folders of images, or more."
        )
    return kept


def find_images(spec: Images) -> Arrays | Listing:
    """Returns what lies at `spec.data`, by its name and its content: arrays, or a list of the pictures in its domains.

    Raises a `UserError` where it is missing, empty, or of a kind that is not known.
    """
    found = _find(spec)
    if spec.domain is None:
        return found
    wanted = (spec.domain,) if isinstance(spec.domain, str) else spec.domain
    there = sorted({p.domain for p in found.pictures if p.domain}) if isinstance(found, Listing) else []
    for name in wanted:
        if name not in there:
            has = f"it has {', '.join(there)}" if there else "it has none"
            raise UserError(f"{spec.data!r} has no domain {name!r}{did_you_mean(name, there)}; {has}.")
    assert isinstance(found, Listing)
    if not wanted:
        raise UserError(f"no domain of {spec.data!r} is named; it has {', '.join(there)}.")
    return replace(found, pictures=tuple(p for p in found.pictures if p.domain in wanted))


def _find(spec: Images) -> Arrays | Listing:
    if spec.data == "digits":
        return _without_labels(spec, arrays.digits())
    if spec.data.startswith(tfds.PREFIX):
        return tfds.list_tfds(spec.data, spec.label)
    path = Path(spec.data)
    if not spec.data or not path.exists():
        raise UserError(
            f"there are no images at {spec.data!r}; allowed: 'digits', an .npz file, a folder, a zip or tar archive, "
            "a .csv or .parquet table, or tfds:NAME."
        )
    if path.suffix == ".npz":
        return _without_labels(spec, arrays.read_npz(path))
    if path.suffix in TABLES and path.is_file():
        return list_table(path, spec.label)
    if not path.is_dir() and not is_archive(path):
        raise UserError(
            f"{spec.data!r} is neither an .npz file, a folder nor a zip or tar archive of class folders, "
            f"nor a table ({', '.join(TABLES)})."
        )
    members = members_of(path)
    seen = [member for member in members if not is_hidden(member[0])]
    if arrays.has_idx(seen):
        return _without_labels(spec, arrays.read_idx(path, seen))
    if arrays.has_cifar(seen):
        return arrays.read_cifar(path, seen, spec.label)
    return list_members(path, members, spec.label)


def _without_labels(spec: Images, found: Arrays) -> Arrays:
    if spec.label is not None:
        raise UserError(f"{spec.data!r} has no labels {spec.label!r}: it has one label an image.")
    return found


def keep_classes(images: ImageSet, spec: Images, emit: Listener = print_warnings) -> ImageSet:
    """Returns the images of the classes that `spec` names, labelled anew in the order of the data set."""
    if spec.classes is None:
        return images
    if len(set(spec.classes)) < max(2, len(spec.classes)):
        raise UserError(f"classes {list(spec.classes)} of {spec.data!r}: name two or more, none twice.")
    for name in spec.classes:
        if name not in images.class_names:
            raise UserError(
                f"{spec.data!r} has no class {name!r}{did_you_mean(name, images.class_names)}; "
                f"it has {', '.join(images.class_names[:12])}{', ...' if len(images.class_names) > 12 else ''}."
            )
    chosen = [label for label, name in enumerate(images.class_names) if name in spec.classes]
    relabel = np.full(len(images.class_names), -1, np.int32)
    relabel[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(relabel[images.labels] >= 0)
    names = tuple(images.class_names[label] for label in chosen)
    fingerprint = _fingerprint([images.fingerprint, *names])
    return ImageSet(
        take_rows(images.images, rows, fingerprint, emit),
        relabel[images.labels[rows]],
        names,
        tuple(images.ids[row] for row in rows),
        images.parts[rows],
        fingerprint,
        images.skipped,
    )


def take_rows(images: np.ndarray, rows: np.ndarray, fingerprint: str, emit: Listener) -> np.ndarray:
    """Returns some of `images: [n, size, size, 3]`; what would take much memory is a map on disk of its own."""
    if images[:1].nbytes * len(rows) <= MOST_UNKEPT_BYTES:
        return images[rows]
    kept, _ = decoded(fingerprint, len(rows), images.shape[1], lambda i: images[rows[i]], "some classes", emit)
    return kept


# --- arrays -----------------------------------------------------------------------------------------------------


def _from_arrays(found: Arrays, spec: Images, size_px: int | None, emit: Listener) -> ImageSet:
    from PIL import Image

    pixels = found.pixels if found.pixels.ndim == 4 else found.pixels[..., None]
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    size = size_px or min(pixels.shape[1:3])
    content = hashlib.sha256(f"{pixels.shape}".encode())
    content.update(np.ascontiguousarray(pixels).data)
    content.update(found.labels.astype(np.int64).tobytes())
    fingerprint = _fingerprint([content.hexdigest(), *found.class_names, *found.parts, str(size), RESIZER])
    images = pixels
    if pixels.shape[1:3] != (size, size):
        images, _ = decoded(
            fingerprint, len(pixels), size, lambda i: fit(Image.fromarray(pixels[i]), size), repr(spec.data), emit
        )
    ids = tuple(f"{part}/{i}" for i, part in enumerate(found.parts))
    return ImageSet(images, found.labels.astype(np.int32), found.class_names, ids, found.parts, fingerprint)


# --- pictures ---------------------------------------------------------------------------------------------------


def _from_pictures(listing: Listing, spec: Images, size: int, emit: Listener) -> ImageSet:
    pictures, skipped = _well_spelt(listing, spec)
    hashed = try_each(
        lambda picture: content_hash(picture.read()),
        pictures,
        lambda done: emit(ImagesRead(repr(spec.data), done, len(pictures))),
    )
    skipped += [(picture, why) for picture, (_, why) in zip(pictures, hashed) if why is not None]
    readable = [(picture, content) for picture, (content, why) in zip(pictures, hashed) if why is None]

    def lines(of: Iterable[tuple[Listed, str]]) -> list[str]:
        """Returns a line a picture: its name and content, and what the name does not tell."""
        told = listing.by_name
        return [f"{p.name} {content}" + ("" if told else f" {p.part} {p.class_name}") for p, content in of]

    def name_all(of: Sequence[tuple[Listed, str]]) -> str:
        declared = listing.class_names or ()
        return _fingerprint([*lines(of), *declared, str(size), RESIZER])

    images, bad = decoded(
        name_all(readable),
        len(readable),
        size,
        lambda i: to_pixels(readable[i][0].read(), size),
        repr(spec.data),
        emit,
    )
    skipped += [(readable[i][0], why) for i, why in bad.items()]
    kept = [item for i, item in enumerate(readable) if i not in bad]
    if skipped and (spec.unreadable == "fail" or not kept):
        _refuse(spec, skipped)
    names = listing.class_names or tuple(sorted({picture.class_name for picture, _ in kept}))
    number = {name: label for label, name in enumerate(names)}
    return ImageSet(
        images,
        np.array([number[picture.class_name] for picture, _ in kept], np.int32),
        names,
        tuple(picture.name for picture, _ in kept),
        np.array([picture.part for picture, _ in kept]),
        name_all(kept),
        tuple(sorted((picture.name, why) for picture, why in skipped)),
    )


def content_hash(content: bytes | np.ndarray) -> str:
    """Returns the sha256 of a picture's file, or of its pixels and their shape."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha256(f"{content.shape}".encode() + np.ascontiguousarray(content).tobytes()).hexdigest()


def to_pixels(content: bytes | np.ndarray, size: int) -> np.ndarray:
    """Returns a picture as [size, size, 3] uint8, from its file's content or its pixels [height, width (, 1 or 3)]."""
    from PIL import Image

    if isinstance(content, bytes):
        return decode(content, size)
    grey = content.ndim == 2 or content.shape[-1] == 1
    return fit(Image.fromarray(content.reshape(content.shape[:2]) if grey else content).convert("RGB"), size)


def _well_spelt(listing: Listing, spec: Images) -> tuple[list[Listed], list[tuple[Listed, str]]]:
    """Returns the pictures of well spelt classes, and those of rarer spellings of the same, with why not.

    Where a list of classes is declared its spelling is meant.
    """
    counts = collections.Counter(picture.class_name for picture in listing.pictures)
    usual: dict[str, str] = {}
    for names in spellings(counts) if listing.class_names is None else []:
        if spec.unreadable == "fail":
            said = " and ".join(f"{_named(name)} ({counts[name]})" for name in names)
            raise UserError(
                f"{spec.data!r} spells a class in several ways: {said}; rename one, or unreadable 'skip' leaves out "
                "the rarer."
            )
        usual |= dict.fromkeys(names[1:], names[0])
    kept = [picture for picture in listing.pictures if picture.class_name not in usual]
    left = [picture for picture in listing.pictures if picture.class_name in usual]
    return kept, [(p, f"its class {_named(p.class_name)} is {_named(usual[p.class_name])} elsewhere") for p in left]


def _named(name: str) -> str:
    """Returns a name in quotes, with letters that look alike told apart."""
    return repr(name) if name.isascii() else ascii(name)


def _refuse(spec: Images, skipped: Sequence[tuple[Listed, str]]) -> None:
    count = len(skipped)
    named = ", ".join(
        f"'{picture.name}' ({why})" for picture, why in sorted(skipped, key=lambda bad: bad[0].name)[:NAMED]
    )
    more = f" and {count - NAMED} more" if count > NAMED else ""
    raise UserError(
        f"{spec.data!r} holds {count} picture{'s' * (count > 1)} that cannot be read: {named}{more}; "
        "`jaxft data check` lists all that is wrong, and a config's unreadable 'skip' leaves them out."
    )


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


def _fingerprint(parts: Iterable[Any]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(str(part).encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest()[:32]
