"""Stratified, seeded, hashed splits into training, validation and test images."""

import hashlib
from dataclasses import dataclass

import numpy as np

from jaxft.config import Images
from jaxft.data.sources import ImageSet
from jaxft.errors import UserError


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of an `ImageSet`, int32 and ascending, without overlap; `digest` names what was drawn."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    digest: str


def draw_split(images: ImageSet, seed: int, spec: Images, where: str, fold: int = 0) -> Split:
    """Returns a split that is drawn class by class.

    The images of a class are ranked by the sha256 of the seed and their id, so a draw depends on no library's
    generator, and draws of one seed are nested: the 5-image set lies within the 10-image one. Those to select on
    come first, then those to train on. Where the data set has a part 'test' (or 'val' alone) it is tested on, whole;
    else `spec.test_fraction` of each class, taken ahead of all else, and whatever is left over. Where it has both,
    those to select on come from 'val', all of it for a `val_fraction`; with `train_on_val` it is trained on instead.
    Where it is not `tested`, those to test on are drawn as they would be, and left out.
    Of a `val_fraction` that is m images of a class, the fold k has the k-th m of them; after the last comes the first.

    Raises a `UserError` where a class has fewer images than are asked for; `where` names the config's field.
    """
    has = {part: bool((images.parts == part).any()) for part in ("val", "test")}
    held_out = "test" if has["test"] else "val" if has["val"] else None
    own_val = has["val"] and held_out == "test"

    train, val, rest = [], [], []
    for label, name in enumerate(images.class_names):
        of_class = np.flatnonzero(images.labels == label)
        ranked = of_class[np.argsort([_rank(seed, images.ids[row]) for row in of_class], kind="stable")]
        parts = images.parts[ranked]
        to_train = ranked[(parts == "train") | (parts == "")]
        if own_val and spec.train_on_val:
            to_train = ranked[parts != "test"]
        num_test = 0 if held_out else _share(len(to_train), spec.test_fraction)
        test, to_train = to_train[:num_test], to_train[num_test:]
        to_select = ranked[parts == "val"] if own_val else to_train
        if spec.val_fraction:
            num_val = len(to_select) if own_val else _share(len(to_select), spec.val_fraction)
            if not own_val:
                to_select = to_train = np.roll(to_train, -fold * num_val)
        else:
            num_val = spec.val_per_class
        _check_enough(len(to_select), num_val, 0 if own_val else spec.train_per_class or 1, where, name)
        val.append(to_select[:num_val])
        left = to_train if own_val else to_train[num_val:]
        _check_enough(len(left), 0, spec.train_per_class or 1, where, name)
        train.append(left[: spec.train_per_class])
        left_over = np.concatenate([test, left[len(train[-1]) :]])
        rest.append(left_over if held_out is None else ranked[parts == held_out])
    if not spec.tested:
        rest = [of_class[:0] for of_class in rest]
    rows = [np.sort(np.concatenate(part)).astype(np.int32) for part in (train, val, rest)]
    return Split(rows[0], rows[1], rows[2], _digest(images, rows))


def _share(count: int, fraction: float) -> int:
    """Returns how many of `count` images a share is: one at least, and all but one at most."""
    return min(max(round(count * fraction), 1), count - 1) if fraction and count else 0


def _check_enough(there: int, val_per_class: int, train_per_class: int, where: str, name: str) -> None:
    asked = val_per_class + train_per_class
    if there < asked:
        raise UserError(
            f"class {name!r} has {there} images to draw from, but '{where}' asks for {asked} "
            f"({train_per_class} to train on, {val_per_class} to select on)."
        )


def _rank(seed: int, image_id: str) -> str:
    return hashlib.sha256(f"{seed}:{image_id}".encode()).hexdigest()


def _digest(images: ImageSet, rows: list[np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, part in zip(("train", "val", "test"), rows):
        total.update(f"{name}\n".encode())
        for row in part:
            total.update(f"{images.ids[row]} {images.class_names[images.labels[row]]}\n".encode())
    return total.hexdigest()[:16]
