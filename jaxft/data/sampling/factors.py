"""Which classes of which data sets are used, at which grain, and what is done to their pixels.

Everything drawn is ranked by a sha256 of the seed and a name, so that draws of one seed are nested, and the same in
every process and version.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxft.analysis.wordnet import class_synsets, load_wordnet
from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.data.batches import permutation
from jaxft.data.readers.image_sets import ImageSet


def rank(kind: str, seed: int, name: str) -> str:
    """Returns the place of `name` among others of its kind, as text that sorts."""
    return hashlib.sha256(f"{kind}:{seed}:{name}".encode()).hexdigest()


# --- classes ----------------------------------------------------------------------------------------------------


def class_order(class_names: Sequence[str], seed: int) -> list[str]:
    """Returns the classes in the order of a seed; it is the same whichever others there are."""
    return sorted(class_names, key=lambda name: rank("class", seed, name))


def choose_classes(
    spec: Images, class_names: Sequence[str], seed: int, where: str, nearness: Mapping[str, float] | None = None
) -> Images:
    """Returns `spec` with the classes that are chosen by name, `spec.num_classes` of them.

    Random ones are the first in the order of the seed. The nearest are those of the greatest `nearness`, the farthest
    those of the least; equals come in the order of the seed. So the fewer lie within the more.

    Raises a `UserError` where there are fewer classes; `where` names the config's field.
    """
    if spec.num_classes is None:
        return spec
    if spec.num_classes > len(class_names):
        raise UserError(f"'{where}.num_classes' is {spec.num_classes}, but {spec.data!r} has {len(class_names)}.")
    order = class_order(class_names, seed)
    if spec.class_choice != "random":
        if nearness is None:
            raise UserError(f"'{where}.class_choice' is {spec.class_choice!r}, but there is no target to compare with.")
        order.sort(key=nearness.__getitem__, reverse=spec.class_choice == "nearest")  # stable, reversed too
    chosen = set(order[: spec.num_classes])
    return dataclasses.replace(
        spec,
        classes=tuple(name for name in class_names if name in chosen),
        num_classes=None,
        class_choice="random",
    )


def name_nearness(
    class_names: Sequence[str],
    target_names: Sequence[str],
    by: str,
    table: str | None = None,
    target_table: str | None = None,
) -> dict[str, float]:
    """Returns how near each class is to the nearest of the target's by WordNet: `by` 'wup' or 'path', in (0, 1].

    The tables correct what names mean (`class_synsets`).
    """
    wordnet = load_wordnet()
    similarity = wordnet.wup if by == "wup" else wordnet.path
    synsets = class_synsets(class_names, table)
    others = set(class_synsets(target_names, target_table).values())
    return {name: max(similarity(synset, other) for other in others) for name, synset in synsets.items()}


def feature_nearness(class_names: Sequence[str], means: np.ndarray, target_means: np.ndarray) -> dict[str, float]:
    """Returns minus the Euclidean distance of each class's mean feature from the nearest of the target's.

    Args:
      means: [classes, features]; `target_means`: [target classes, features].
    """
    distances = np.sqrt(np.square(means[:, None].astype(np.float64) - target_means[None]).sum(-1)).min(axis=1)
    return {name: -float(distance) for name, distance in zip(class_names, distances)}


def merged_names(class_names: Sequence[str], depth: int, table: str | None = None) -> dict[str, str]:
    """Returns the merged class of each class: what is above it at a depth of WordNet, where 'entity' has depth 0.

    A class that is no deeper stays for itself (Huh, Agrawal & Efros 2016, section 5, merge ImageNet's classes so). A
    merged class is called by its synset's first word, and by its number too where two share the word.
    """
    wordnet = load_wordnet()
    above = {name: wordnet.ancestor(synset, depth) for name, synset in class_synsets(class_names, table).items()}
    by_word: dict[str, set[str]] = {}
    for synset in above.values():
        by_word.setdefault(wordnet.words[synset], set()).add(synset)

    def called(synset: str) -> str:
        word = wordnet.words[synset]
        return word if len(by_word[word]) == 1 else f"{word} {synset}"

    return {name: called(synset) for name, synset in above.items()}


def merge_classes(images: ImageSet, merged: Mapping[str, str]) -> ImageSet:
    """Returns the same images, labelled by the class that `merged` has for each of theirs."""
    names = tuple(sorted({merged[name] for name in images.class_names}))
    if len(names) < 2:
        raise UserError(f"all classes are merged into one, {names[0]!r}; raise 'wordnet_depth'.")
    labels = np.array([names.index(merged[name]) for name in images.class_names], np.int32)
    told = [f"{name} {merged[name]}" for name in images.class_names]
    return dataclasses.replace(
        images,
        labels=labels[images.labels],
        class_names=names,
        fingerprint=_derived(images, "merged", *told),
    )


def join_sets(sets: Mapping[str, ImageSet]) -> ImageSet:
    """Returns several image sets as one, whose classes and images are named 'set/class' and 'set/id'.

    Where some have a test or validation part and others none, the parts stay as they are.
    """
    names = tuple(f"{key}/{name}" for key, images in sets.items() for name in images.class_names)
    before = np.cumsum([0, *(len(images.class_names) for images in sets.values())])
    total = hashlib.sha256("\n".join(f"{key} {images.fingerprint}" for key, images in sets.items()).encode())
    return ImageSet(
        np.concatenate([images.images for images in sets.values()]),
        np.concatenate([images.labels + first for images, first in zip(sets.values(), before)]).astype(np.int32),
        names,
        tuple(f"{key}/{image_id}" for key, images in sets.items() for image_id in images.ids),
        np.concatenate([images.parts for images in sets.values()]),
        total.hexdigest()[:32],
        tuple((f"{key}/{name}", why) for key, images in sets.items() for name, why in images.skipped),
    )


def set_names(data: Sequence[str]) -> list[str]:
    """Returns a short name for each data set: that of its file without the ending, numbered where two share it."""
    found: list[str] = []
    for place in data:
        stem = Path(place).stem.replace("/", "-")
        number = sum(name == stem or name.startswith(f"{stem}-") for name in found)
        found.append(f"{stem}-{number + 1}" if stem in found else stem)
    return found


# --- pixels -----------------------------------------------------------------------------------------------------


def change_pixels(images: ImageSet, spec: Images, seed: int, where: str) -> ImageSet:
    """Returns the images without colour, or with their blocks shuffled, as `spec` says.

    Grey is the luma of ITU-R 601, in all three channels, rounded as Pillow does. Shuffled: each image is cut into
    blocks of `spec.shuffle_px`, which all images have in one other order, that of the seed (Neyshabur, Sedghi & Zhang
    2020, section 3.1). What the pixels were is in the fingerprint, and how they were changed.

    Raises a `UserError` where the images are no whole number of blocks.
    """
    if spec.grey:
        grey = _luma(images.images)
        images = dataclasses.replace(images, images=grey, fingerprint=_derived(images, "grey"))
    if spec.shuffle_px:
        size = images.images.shape[1]
        if size % spec.shuffle_px:
            raise UserError(
                f"'{where}.shuffle_px' is {spec.shuffle_px}, of which {size} pixels are no whole number; "
                f"allowed: {', '.join(str(s) for s in range(1, size + 1) if size % s == 0)}."
            )
        shuffled = shuffle_blocks(images.images, spec.shuffle_px, seed)
        told = _derived(images, "shuffled", str(spec.shuffle_px), str(seed))
        images = dataclasses.replace(images, images=shuffled, fingerprint=told)
    return images


def _luma(pixels: np.ndarray) -> np.ndarray:
    grey = np.empty_like(pixels)
    for row, image in enumerate(pixels):  # one at a time: sums take four times the memory
        red, green, blue = (image[..., channel].astype(np.uint32) for channel in range(3))
        grey[row] = ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)[..., None]
    return grey


def shuffle_blocks(pixels: np.ndarray, block_px: int, seed: int) -> np.ndarray:
    """Returns images [n, size, size, 3] with their blocks in the order that belongs to the seed."""
    n, size, _, channels = pixels.shape
    side = size // block_px
    order = permutation(f"shuffle:{seed}", side * side)
    blocks = pixels.reshape(n, side, block_px, side, block_px, channels).transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(n, side * side, block_px, block_px, channels)[:, order]
    blocks = blocks.reshape(n, side, side, block_px, block_px, channels).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(blocks.reshape(pixels.shape))


def _derived(images: ImageSet, *how: str) -> str:
    """Returns the fingerprint of what was made of images."""
    return hashlib.sha256("\n".join((images.fingerprint, *how)).encode()).hexdigest()[:32]
