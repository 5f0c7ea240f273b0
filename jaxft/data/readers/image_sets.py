"""Loading of image sets from all formats, as uint8 arrays.

Image files are decoded once, at the size that the study uses. The decoded images are cached in the cache folder of the
user (or `$JAXFT_CACHE`) under the fingerprint of their bytes, the resizer and the size.
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
from jaxft.core.text import plural, shown, some_of
from jaxft.data.readers.arrays import Arrays
from jaxft.data.readers.attempts import try_each
from jaxft.data.readers.decoded import decoded
from jaxft.data.readers.image_set import ImageSet, fingerprint_of, keep_classes
from jaxft.data.readers.listing import ListedImage, Listing, spellings
from jaxft.data.readers.location import Location
from jaxft.data.readers.pictures import RESIZER, content_hash, fit, to_pixels
from jaxft.data.readers.registry import read_location, readable

DEFAULT_SIZE_PX = 32  # of image files, if neither the config nor the network determines their size
MOST_NAMED = 3  # unusable images in an error message
COMMON_SUFFIXES = (".jpg", ".png", ".webp", ".tif")  # in an error message


def load_images(spec: Images, size_px: int | None, emit: Listener = print_warnings) -> ImageSet:
    """Returns the images of `spec`, resized to `size_px` pixels.

    The shorter side of an image is resized (bilinear with antialiasing, Pillow), followed by a center crop. If
    `size_px` is None, arrays keep their size and image files get 32 pixels.

    Args:
      spec: the data, with its domains, label and classes.
      size_px: side of the images, in pixels.
      emit: receives progress events.

    Raises:
      UserError: the data are missing, empty or of an unknown format, or have fewer than two classes. Unless
        `spec.unreadable` is 'skip', also if an image is unreadable or a class has several spellings.
    """
    data = find_images(spec)
    if isinstance(data, Arrays):
        images = _from_arrays(data, spec, size_px, emit)
    else:
        images = _from_listing(data, spec, size_px or DEFAULT_SIZE_PX, emit)
    images = keep_classes(images, spec, emit)
    if len(images.class_names) < 2:
        raise UserError(
            f"{spec.data!r} has only one class, {images.class_names[0]!r}; classification needs at least two classes."
        )
    return images


def find_images(spec: Images) -> Arrays | Listing:
    """Returns the images at `spec.data`, before decoding: as arrays, or as a list of the images of its domains.

    Raises:
      UserError: the data are missing, empty or of an unknown format, or a domain is unknown.
    """
    location = Location(spec.data, spec.label)
    location.refuse_special_file()
    data = read_location(location)
    if data is None:
        is_missing = not spec.data or not Path(spec.data).exists()
        problem = f"{spec.data!r} {'does not exist' if is_missing else 'has no known image format'}"
        if is_missing and any(character in spec.data for character in "{*"):
            raise UserError(f"{problem}; patterns of several files are not expanded: name one file or folder.")
        raise UserError(f"{problem}; allowed: {readable()}.")
    return data if spec.domain is None else _select_domains(data, spec)


def _select_domains(data: Arrays | Listing, spec: Images) -> Listing:
    """Returns the images of the domains `spec.domain`."""
    requested = (spec.domain,) if isinstance(spec.domain, str) else spec.domain or ()
    known = sorted({image.domain for image in data.images if image.domain}) if isinstance(data, Listing) else []
    available = f"its domains are {some_of(known, MOST_NAMED)}" if known else "it has no domains"
    for name in requested:
        if name not in known:
            raise UserError(f"{spec.data!r} has no domain {shown(name)}{did_you_mean(name, known)}; {available}.")
    if not requested:
        raise UserError(f"'domain' of {spec.data!r} is empty; name at least one domain; {available}.")
    assert isinstance(data, Listing)
    return replace(data, images=tuple(image for image in data.images if image.domain in requested))


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


def _from_listing(listing: Listing, spec: Images, size: int, emit: Listener) -> ImageSet:
    notes = _folder_notes(listing, spec)
    listed, skipped = _separate_misspelled(listing, spec)
    hashes = try_each(
        lambda image: content_hash(image.read()),
        listed,
        lambda done: emit(ImagesRead(repr(spec.data), done, len(listed))),
    )
    skipped += [(image, why) for image, (_, why) in zip(listed, hashes) if why is not None]
    readable = [(image, content) for image, (content, why) in zip(listed, hashes) if why is None]

    make = functools.partial(_read_pixels, [image for image, _ in readable], size)
    pixels, bad = decoded(_fingerprint(listing, readable, size), len(readable), size, make, repr(spec.data), emit)
    skipped += [(readable[i][0], why) for i, why in bad.items()]
    good = [item for i, item in enumerate(readable) if i not in bad]
    if skipped and (spec.unreadable == "fail" or not good):
        _refuse(spec, skipped)
    lost = sorted({image.class_name for image in listed} - {image.class_name for image, _ in good})
    notes += [f"{spec.data!r}: no image of the class {name!r} can be read; the class is left out." for name in lost]
    if listing.class_names is not None:
        listing = replace(listing, class_names=tuple(name for name in listing.class_names if name not in lost))
    names = listing.class_names or tuple(sorted({image.class_name for image, _ in good}))
    label_of = {name: label for label, name in enumerate(names)}
    return ImageSet(
        images=pixels,
        labels=np.array([label_of[image.class_name] for image, _ in good], np.int32),
        class_names=names,
        ids=tuple(image.name for image, _ in good),
        subsets=np.array([image.subset for image, _ in good]),
        fingerprint=_fingerprint(listing, good, size),
        skipped=tuple(sorted((image.name, why) for image, why in skipped)),
        folders=str(listing.layout or ""),
        notes=tuple(notes),
    )


def _folder_notes(listing: Listing, spec: Images) -> list[str]:
    """Returns a sentence for the empty class folders, and one for each folder of images without a class.

    Raises:
      UserError: a class folder is empty, and `spec.unreadable` is 'fail'.
    """
    if listing.layout is None:
        return []
    notes = [
        f"{spec.data!r}: {plural(count, 'image')} in the folder {folder!r} {'has' if count == 1 else 'have'} no class "
        "and are left out."
        for folder, count in listing.layout.unlabeled.items()
    ]
    empty = listing.layout.empty
    if empty:
        problem = f"{spec.data!r}: no images in the class {'folder' if len(empty) == 1 else 'folders'} {some_of(empty)}"
        if spec.unreadable == "fail":
            raise UserError(
                f"{problem}; readable suffixes are {', '.join(COMMON_SUFFIXES)} and others (docs/data.md). Delete the "
                "folders, or set 'unreadable' to 'skip'."
            )
        notes.append(f"{problem}; left out.")
    return notes


def _read_pixels(images: Sequence[ListedImage], size: int, number: int) -> np.ndarray:
    return to_pixels(images[number].read(), size)


def _fingerprint(listing: Listing, images: Iterable[tuple[ListedImage, str]], size: int) -> str:
    """Returns the fingerprint of images, given as (image, hash of its content)."""
    lines = []
    for image, content in images:
        suffix = "" if listing.by_name else f" {image.subset} {image.class_name}"
        lines.append(f"{image.name} {content}{suffix}")
    return fingerprint_of([*lines, *(listing.class_names or ()), str(size), RESIZER])


def _separate_misspelled(listing: Listing, spec: Images) -> tuple[list[ListedImage], list[tuple[ListedImage, str]]]:
    """Returns the images to use, and (image, reason) of the images whose class has a rarer spelling.

    If the data declare a list of classes, their spellings are distinct classes.
    """
    counts = collections.Counter(image.class_name for image in listing.images)
    spelling_of: dict[str, str] = {}
    for names in spellings(counts) if listing.class_names is None else []:
        if spec.unreadable == "fail":
            variants = " and ".join(f"{_quoted(name)} ({plural(counts[name], 'image')})" for name in names)
            raise UserError(
                f"{spec.data!r} has a class with several spellings: {variants}; rename one, or set 'unreadable' to "
                "'skip' to leave out the rarer spellings."
            )
        spelling_of |= dict.fromkeys(names[1:], names[0])
    used = [image for image in listing.images if image.class_name not in spelling_of]
    misspelled = [image for image in listing.images if image.class_name in spelling_of]
    return used, [
        (image, f"its class {_quoted(image.class_name)} is a spelling of {_quoted(spelling_of[image.class_name])}")
        for image in misspelled
    ]


def _quoted(name: str) -> str:
    """Returns a name in quotes; a name with letters outside of ASCII has escapes, because some letters look alike."""
    return repr(name) if name.isascii() else ascii(name)


def _refuse(spec: Images, skipped: Sequence[tuple[ListedImage, str]]) -> None:
    in_order = sorted(skipped, key=lambda item: item[0].name)
    named = some_of([f"'{image.name}' ({why})" for image, why in in_order], MOST_NAMED)
    raise UserError(
        f"{spec.data!r} has {plural(len(skipped), 'unusable image')}: {named}; `jaxft data check` lists all problems, "
        "and 'unreadable' set to 'skip' leaves these images out."
    )
