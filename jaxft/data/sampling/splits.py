"""Stratified, seeded, hashed splits into training, validation and test images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.config import Images
from jaxft.core.digests import sha256_of, short_digest
from jaxft.core.errors import UserError
from jaxft.data.readers.image_set import ImageSet
from jaxft.data.sampling.counts import train_counts


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of an `ImageSet`, int32 and ascending, without overlap; `digest` names what was drawn.

    `labels` are those of all its images as a trial sees them: [n] int32, wrong for noisy ones among `train`.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    digest: str
    labels: np.ndarray


def draw_split(images: ImageSet, seed: int, spec: Images, where: str, fold: int = 0) -> Split:
    """Returns a split that is drawn class by class, with the true labels.

    The images of a class are ranked by the sha256 of the seed and their id, so a draw depends on no library's
    generator, and draws of one seed are nested: the 5-image set lies within the 10-image one. Those to select on
    come first, then those to train on. Where the data set has a part 'test' (or 'val' alone) it is tested on, whole;
    else `spec.test_fraction` of each class, taken ahead of all else, and whatever is left over; with
    `spec.test_per_class` so many of a class, taken ahead of all else too, and nothing that is left over. Where it has
    both parts, those to select on come from 'val', all of it for a `val_fraction`; with `train_on_val` it is trained on
    instead. Where it is not `tested`, those to test on are drawn as they would be, and left out.
    Of a `val_fraction` that is m images of a class, the fold k has the k-th m of them; after the last comes the first.

    How many of a class are trained on is `train_counts`.

    Raises a `UserError` where a class has fewer images than are asked for; `where` names the config's field.
    """
    request = _Request(spec, seed, where, fold, *_own_subsets(images))
    classes = [_draw_class(images, label, request) for label in range(len(images.class_names))]
    counts = train_counts(spec, images.class_names, [len(of_class.left) for of_class in classes], seed, where)
    for of_class, count in zip(classes, counts):
        needed = {"train": 0 if request.own_val else count, "select": len(of_class.val)}
        _check_enough(of_class.num_selectable, needed, where, of_class.name)
        _check_enough(len(of_class.left), {"train": max(count, 1)}, where, of_class.name)
    train = [of_class.left[:count] for of_class, count in zip(classes, counts)]
    test = [of_class.test for of_class in classes]
    if not spec.tested:
        test = [rows[:0] for rows in test]
    elif request.held_out is None and not spec.test_per_class:  # what is left over is tested on too
        test = [np.concatenate([of_class.test, of_class.left[count:]]) for of_class, count in zip(classes, counts)]
    rows = train, [of_class.val for of_class in classes], test
    return make_split(
        images, [np.sort(np.concatenate(subset)).astype(np.int32) for subset in rows], images.labels.copy()
    )


@dataclass(frozen=True)
class _Request:
    """What is asked for, and which parts the data have of their own.

    `held_out` is the part that is tested on, if there is one; `own_val` is true if a part 'val' is selected on.
    """

    spec: Images
    seed: int
    where: str
    fold: int
    held_out: str | None
    own_val: bool


@dataclass(frozen=True, eq=False)
class _ClassDraw:
    """Rows of a class: `left` are those that may be trained on. Those to select on come from `num_selectable`."""

    name: str
    test: np.ndarray
    val: np.ndarray
    left: np.ndarray
    num_selectable: int


def _own_subsets(images: ImageSet) -> tuple[str | None, bool]:
    has_test, has_val = ((images.subsets == subset).any() for subset in ("test", "val"))
    held_out = "test" if has_test else "val" if has_val else None
    return held_out, bool(has_test and has_val)


def _draw_class(images: ImageSet, label: int, request: _Request) -> _ClassDraw:
    """Returns the images of a class to test and to select on, and those that are left to train on."""
    spec, name = request.spec, images.class_names[label]
    of_class = np.flatnonzero(images.labels == label)
    ranked = of_class[np.argsort([_rank(request.seed, images.ids[row]) for row in of_class], kind="stable")]
    subsets = images.subsets[ranked]
    train_on_val = request.own_val and spec.train_on_val
    to_train = ranked[subsets != "test"] if train_on_val else ranked[(subsets == "train") | (subsets == "")]
    if request.held_out is not None:
        test = ranked[subsets == request.held_out]
        if spec.test_per_class:
            _check_enough(len(test), {"test": spec.test_per_class}, request.where, name)
            test = test[: spec.test_per_class]
    else:
        num_test = spec.test_per_class or _share(len(to_train), spec.test_fraction)
        if spec.test_per_class:
            _check_enough(len(to_train), {"test": num_test}, request.where, name)
        test, to_train = to_train[:num_test], to_train[num_test:]
    if request.own_val:
        to_select = ranked[subsets == "val"]
        val = to_select if spec.val_fraction else to_select[: spec.val_per_class]
        _check_enough(len(to_select), {"train": 0, "select": spec.val_per_class}, request.where, name)
        return _ClassDraw(name, test, val, to_train, len(to_select))
    num_val = _share(len(to_train), spec.val_fraction) if spec.val_fraction else spec.val_per_class
    if spec.val_fraction:
        to_train = np.roll(to_train, -request.fold * num_val)
    _check_enough(len(to_train), {"train": 1, "select": num_val}, request.where, name)
    return _ClassDraw(name, test, to_train[:num_val], to_train[num_val:], len(to_train))


def make_split(images: ImageSet, rows: Sequence[np.ndarray], labels: np.ndarray) -> Split:
    """Returns a split of images into rows to train, select and test on, with the labels [n] of all images."""
    train, val, test = rows
    return Split(train, val, test, split_digest(images, rows, labels), labels)


def no_split(images: ImageSet) -> Split:
    """Returns a split of which no image is a part, with the true labels."""
    return make_split(images, [np.zeros(0, np.int32)] * 3, images.labels.copy())


def _share(count: int, fraction: float) -> int:
    """Returns how many of `count` images a share is: one at least, and all but one at most."""
    return min(max(round(count * fraction), 1), count - 1) if fraction and count else 0


def _check_enough(available: int, requested: Mapping[str, int], where: str, name: str) -> None:
    """Checks that a class has the images that are asked for, to 'train', 'select' and 'test' on."""
    if available < sum(requested.values()):
        subsets = {"train": 0, "select": 0} | dict(requested)
        counts = ", ".join(f"{count} to {subset} on" for subset, count in subsets.items())
        raise UserError(
            f"class {name!r} has {available} images to draw from, but '{where}' asks for {sum(requested.values())} "
            f"({counts})."
        )


def _rank(seed: int, image_id: str) -> str:
    return sha256_of(f"{seed}:{image_id}")


def split_digest(images: ImageSet, rows: Sequence[np.ndarray], labels: np.ndarray) -> str:
    """Returns 16 hexadecimal digits that name the rows to train, select and test on, by their ids and labels."""
    lines = []
    for name, subset in zip(("train", "val", "test"), rows):
        lines += [name, *(f"{images.ids[row]} {images.class_names[labels[row]]}" for row in subset)]
    return short_digest(*(f"{line}\n" for line in lines))
