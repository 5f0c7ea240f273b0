"""Labeled images as uint8 arrays, whatever they lie in: the one door to image sets.

Pictures are decoded once, at the size a study works at, and kept in the user's cache folder under the fingerprint of
their bytes, the resizer and the size (`$JAXFT_CACHE` names another folder).
"""

import collections
import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxft.config import Images
from jaxft.core.digests import sha256_of
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.events import ImagesRead, Listener, print_warnings
from jaxft.core.text import plural, some_of
from jaxft.data.readers.arrays import Arrays
from jaxft.data.readers.attempts import try_each
from jaxft.data.readers.decoded import decoded
from jaxft.data.readers.image_set import ImageSet, fingerprint_of, keep_classes
from jaxft.data.readers.listing import ListedPicture, Listing, spellings
from jaxft.data.readers.location import Location
from jaxft.data.readers.pictures import RESIZER, content_hash, fit, to_pixels
from jaxft.data.readers.registry import read_location, readable

NATIVE_PX = 32  # of pictures, where neither a config nor a network says their size
NAMED = 5  # of bad pictures, in an error


def load_images(spec: Images, size_px: int | None, emit: Listener = print_warnings) -> ImageSet:
    """Returns the images that `spec` names, at `size_px` (arrays keep their own size where it is None).

    A picture's shorter side is resized (bilinear with antialiasing, Pillow) and the center cut out. `emit` hears
    how far this is.

    Raises a `UserError` where the data are missing or empty, have fewer than two classes, or, unless `spec.unreadable`
    is 'skip', hold a picture that cannot be read, or a class that is spelled in several ways; the message names it.
    """
    data = find_images(spec)
    if isinstance(data, Arrays):
        everything = _from_arrays(data, spec, size_px, emit)
    else:
        everything = _from_pictures(data, spec, size_px or NATIVE_PX, emit)
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
    data = read_location(Location(spec.data, spec.label))
    if data is None:
        missing = not spec.data or not Path(spec.data).exists()
        problem = f"there are no images at {spec.data!r}" if missing else f"{spec.data!r} is no kind of image set"
        raise UserError(f"{problem}; allowed: {readable()}.")
    return data if spec.domain is None else _of_domains(data, spec)


def _of_domains(data: Arrays | Listing, spec: Images) -> Listing:
    """Returns the pictures of the domains that `spec` names."""
    wanted = (spec.domain,) if isinstance(spec.domain, str) else spec.domain or ()
    known = sorted({p.domain for p in data.pictures if p.domain}) if isinstance(data, Listing) else []
    for name in wanted:
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"{spec.data!r} has no domain {name!r}{did_you_mean(name, known)}; {has}.")
    if not wanted:
        raise UserError(f"no domain of {spec.data!r} is named; it has {', '.join(known) or 'none'}.")
    assert isinstance(data, Listing)
    return replace(data, pictures=tuple(p for p in data.pictures if p.domain in wanted))


def _from_arrays(data: Arrays, spec: Images, size_px: int | None, emit: Listener) -> ImageSet:
    from PIL import Image

    pixels = data.pixels if data.pixels.ndim == 4 else data.pixels[..., None]
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    size = size_px or min(pixels.shape[1:3])
    content = sha256_of(f"{pixels.shape}", pixels, data.labels.astype(np.int64))
    fingerprint = fingerprint_of([content, *data.class_names, *data.subsets, str(size), RESIZER])
    images = pixels
    if pixels.shape[1:3] != (size, size):
        images, _ = decoded(
            fingerprint, len(pixels), size, lambda i: fit(Image.fromarray(pixels[i]), size), repr(spec.data), emit
        )
    ids = tuple(f"{subset}/{i}" for i, subset in enumerate(data.subsets))
    return ImageSet(images, data.labels.astype(np.int32), data.class_names, ids, data.subsets, fingerprint)


def _from_pictures(listing: Listing, spec: Images, size: int, emit: Listener) -> ImageSet:
    pictures, skipped = _well_spelled(listing, spec)
    hashed = try_each(
        lambda picture: content_hash(picture.read()),
        pictures,
        lambda done: emit(ImagesRead(repr(spec.data), done, len(pictures))),
    )
    skipped += [(picture, why) for picture, (_, why) in zip(pictures, hashed) if why is not None]
    readable = [(picture, content) for picture, (content, why) in zip(pictures, hashed) if why is None]

    make = functools.partial(_pixels_of, [picture for picture, _ in readable], size)
    images, bad = decoded(_identify(listing, readable, size), len(readable), size, make, repr(spec.data), emit)
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
        np.array([picture.subset for picture, _ in kept]),
        _identify(listing, kept, size),
        tuple(sorted((picture.name, why) for picture, why in skipped)),
    )


def _pixels_of(pictures: Sequence[ListedPicture], size: int, number: int) -> np.ndarray:
    return to_pixels(pictures[number].read(), size)


def _identify(listing: Listing, pictures: Iterable[tuple[ListedPicture, str]], size: int) -> str:
    """Returns the fingerprint of pictures with their content: (picture, its hash)."""
    lines = []
    for picture, content in pictures:
        suffix = "" if listing.by_name else f" {picture.subset} {picture.class_name}"  # which the name does not tell
        lines.append(f"{picture.name} {content}{suffix}")
    return fingerprint_of([*lines, *(listing.class_names or ()), str(size), RESIZER])


def _well_spelled(listing: Listing, spec: Images) -> tuple[list[ListedPicture], list[tuple[ListedPicture, str]]]:
    """Returns the pictures of well spelled classes, and those of rarer spellings of the same, with why not.

    Where a list of classes is declared its spelling is meant.
    """
    counts = collections.Counter(picture.class_name for picture in listing.pictures)
    spelling_of: dict[str, str] = {}
    for names in spellings(counts) if listing.class_names is None else []:
        if spec.unreadable == "fail":
            ways = " and ".join(f"{_named(name)} ({counts[name]})" for name in names)
            raise UserError(
                f"{spec.data!r} spells a class in several ways: {ways}; rename one, or unreadable 'skip' leaves out "
                "the rarer."
            )
        spelling_of |= dict.fromkeys(names[1:], names[0])
    kept = [picture for picture in listing.pictures if picture.class_name not in spelling_of]
    left = [picture for picture in listing.pictures if picture.class_name in spelling_of]
    return kept, [
        (p, f"its class {_named(p.class_name)} is {_named(spelling_of[p.class_name])} elsewhere") for p in left
    ]


def _named(name: str) -> str:
    """Returns a name in quotes, with letters that look alike told apart."""
    return repr(name) if name.isascii() else ascii(name)


def _refuse(spec: Images, skipped: Sequence[tuple[ListedPicture, str]]) -> None:
    in_order = sorted(skipped, key=lambda bad: bad[0].name)
    named = some_of([f"'{picture.name}' ({why})" for picture, why in in_order], NAMED)
    raise UserError(
        f"{spec.data!r} holds {plural(len(skipped), 'picture')} that cannot be read: {named}; "
        "`jaxft data check` lists all that is wrong, and a config's unreadable 'skip' leaves them out."
    )
