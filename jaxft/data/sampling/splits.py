"""Stratified random splits into training, validation and test images, drawn by hashes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.config import Images
from jaxft.core.digests import sha256_of, short_digest
from jaxft.core.errors import UserError
from jaxft.core.text import plural
from jaxft.data.readers.image_set import ImageSet
from jaxft.data.sampling.counts import train_counts


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of the training, validation and test images of an `ImageSet`.

    Attributes:
      train, val, test: int32 row indices, each of shape [number of images of the subset], ascending and disjoint.
      digest: identifies the image ids and labels of the three subsets.
      labels: [n] int32, labels of all images of the set; training labels may have noise.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    digest: str
    labels: np.ndarray


def draw_split(images: ImageSet, seed: int, spec: Images, where: str, fold: int = 0) -> Split:
    """Returns a split that is drawn separately for each class. Its labels are the true labels.

    The images of a class are ranked by the sha256 of the seed and their ids. So a draw does not depend on the random
    generator of a library, and draws of one seed are nested: 5 images per class are a subset of 10.

    - Test images: the split 'test' of the data, or the split 'val' if the data have no 'test'. If the data have
      neither, test images are the first `spec.test_fraction` of each class, plus all images that are not used for
      validation or training. With `spec.test_per_class`, they are this number of images of each class. If
      `spec.tested` is false, test images are drawn in the same way and then left out.
    - Validation images: the next images of each class. If the data have both 'val' and 'test', validation images come
      from 'val': `spec.val_per_class` of each class, or all of 'val' with a `spec.val_fraction`. `spec.train_on_val`
      uses 'val' for training instead. If the data do not have both, and `spec.val_fraction` selects m images of a
      class, fold 0 is the first m of the images that are not test images, fold 1 the next m, and so on, cyclically.
    - Training images: the next images of each class; `train_counts` returns their number.

    Args:
      images: the images.
      seed: seed of the draw.
      spec: numbers and fractions of images.
      where: config field of `spec`, for error messages.
      fold: number of the validation fold, from 0.

    Raises:
      UserError: a class has fewer images than `spec` requests.
    """
    request = _Request(spec, seed, where, fold, *_data_splits(images))
    draws = [_draw_class(images, label, request) for label in range(len(images.class_names))]
    counts = train_counts(spec, images.class_names, [len(draw.left) for draw in draws], seed, where)
    for draw, count in zip(draws, counts):
        needed = {"training": 0 if request.has_val else count, "validation": len(draw.val)}
        _check_enough(draw.num_selectable, needed, where, draw.name)
        _check_enough(len(draw.left), {"training": max(count, 1)}, where, draw.name)
    train = [draw.left[:count] for draw, count in zip(draws, counts)]
    test = [draw.test for draw in draws]
    if not spec.tested:
        test = [rows[:0] for rows in test]
    elif request.held_out is None and not spec.test_per_class:  # the remaining images are test images too
        test = [np.concatenate([draw.test, draw.left[count:]]) for draw, count in zip(draws, counts)]
    rows = train, [draw.val for draw in draws], test
    return make_split(
        images, [np.sort(np.concatenate(subset)).astype(np.int32) for subset in rows], images.labels.copy()
    )


@dataclass(frozen=True)
class _Request:
    """The arguments of a draw, and the splits of the data.

    `held_out` is the split of the data that contains the test images, 'test' or 'val'; None if the data have neither.
    `has_val` is whether the data have both 'val' and 'test', so that validation images come from 'val'.
    """

    spec: Images
    seed: int
    where: str
    fold: int
    held_out: str | None
    has_val: bool


@dataclass(frozen=True, eq=False)
class _ClassDraw:
    """Row indices of the images of a class.

    `left` are available for training. `val` is drawn from `num_selectable` images.
    """

    name: str
    test: np.ndarray
    val: np.ndarray
    left: np.ndarray
    num_selectable: int


def _data_splits(images: ImageSet) -> tuple[str | None, bool]:
    """Returns `held_out` and `has_val` of a `_Request`."""
    has_test, has_val = ((images.subsets == subset).any() for subset in ("test", "val"))
    held_out = "test" if has_test else "val" if has_val else None
    return held_out, bool(has_test and has_val)


def _draw_class(images: ImageSet, label: int, request: _Request) -> _ClassDraw:
    """Returns the test and validation images of a class, and the images that are left for training."""
    spec, name = request.spec, images.class_names[label]
    class_rows = np.flatnonzero(images.labels == label)
    ranked = class_rows[np.argsort([_rank(request.seed, images.ids[row]) for row in class_rows], kind="stable")]
    subsets = images.subsets[ranked]
    train_on_val = request.has_val and spec.train_on_val
    pool = ranked[subsets != "test"] if train_on_val else ranked[(subsets == "train") | (subsets == "")]
    if request.held_out is not None:
        test = ranked[subsets == request.held_out]
        if spec.test_per_class:
            _check_enough(len(test), {"testing": spec.test_per_class}, request.where, name)
            test = test[: spec.test_per_class]
    else:
        num_test = spec.test_per_class or _num_images(len(pool), spec.test_fraction)
        if spec.test_per_class:
            _check_enough(len(pool), {"testing": num_test}, request.where, name)
        test, pool = pool[:num_test], pool[num_test:]
    if request.has_val:
        selectable = ranked[subsets == "val"]
        val = selectable if spec.val_fraction else selectable[: spec.val_per_class]
        _check_enough(len(selectable), {"training": 0, "validation": spec.val_per_class}, request.where, name)
        return _ClassDraw(name, test, val, pool, len(selectable))
    num_val = _num_images(len(pool), spec.val_fraction) if spec.val_fraction else spec.val_per_class
    if spec.val_fraction:
        pool = np.roll(pool, -request.fold * num_val)
    _check_enough(len(pool), {"training": 1, "validation": num_val}, request.where, name)
    return _ClassDraw(name, test, pool[:num_val], pool[num_val:], len(pool))


def make_split(images: ImageSet, rows: Sequence[np.ndarray], labels: np.ndarray) -> Split:
    """Returns a split from `rows` (training, validation, test: [m] int32 each) and `labels: [n]` of all images."""
    train, val, test = rows
    return Split(train, val, test, split_digest(images, rows, labels), labels)


def no_split(images: ImageSet) -> Split:
    """Returns a split without images in any subset, with the true labels."""
    return make_split(images, [np.zeros(0, np.int32)] * 3, images.labels.copy())


def _num_images(count: int, fraction: float) -> int:
    """Returns `count` * `fraction`, rounded and clipped to [1, `count` - 1]; 0 if `count` or `fraction` is 0."""
    return min(max(round(count * fraction), 1), count - 1) if fraction and count else 0


def _check_enough(available: int, requested: Mapping[str, int], where: str, name: str) -> None:
    """Checks that `available` images of the class `name` suffice for `requested`, the numbers of images by purpose."""
    if available < sum(requested.values()):
        counts = {"training": 0, "validation": 0} | dict(requested)
        purposes = ", ".join(f"{count} for {purpose}" for purpose, count in counts.items())
        raise UserError(
            f"class {name!r} has {plural(available, 'image')} available, but '{where}' requests "
            f"{sum(requested.values())} ({purposes})."
        )


def _rank(seed: int, image_id: str) -> str:
    return sha256_of(f"{seed}:{image_id}")


def split_digest(images: ImageSet, rows: Sequence[np.ndarray], labels: np.ndarray) -> str:
    """Returns 16 hexadecimal digits that identify the ids and labels of the training, validation and test images.

    `rows` are three arrays [m] int32, and `labels` are [n] int32.
    """
    lines = []
    for name, subset in zip(("train", "val", "test"), rows):
        lines += [name, *(f"{images.ids[row]} {images.class_names[labels[row]]}" for row in subset)]
    return short_digest(*(f"{line}\n" for line in lines))
