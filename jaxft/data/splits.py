"""Stratified, seeded, hashed splits into training, validation and test images."""

import hashlib
from dataclasses import dataclass

import numpy as np

from jaxft.data.sources import ImageSet
from jaxft.errors import UserError


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of an `ImageSet`, int32 and ascending, without overlap; `digest` names what was drawn."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    digest: str


def draw_split(images: ImageSet, seed: int, train_per_class: int | None, val_per_class: int, where: str) -> Split:
    """Returns a split that is drawn class by class.

    The images of a class are ranked by the sha256 of the seed and their id, so a draw depends on no library's
    generator, and draws of one seed are nested: the 5-image set lies within the 10-image one. Those to select on
    come first, then those to train on. Where the data set has a part 'test' (or 'val' alone) it is tested on, whole;
    else whatever is left over is. Where it has both, those to select on come from 'val'.

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
        to_select = ranked[parts == "val"] if own_val else to_train
        _check_enough(len(to_select), val_per_class, 0 if own_val else train_per_class or 1, where, name)
        val.append(to_select[:val_per_class])
        left = to_train if own_val else to_train[val_per_class:]
        _check_enough(len(left), 0, train_per_class or 1, where, name)
        train.append(left[:train_per_class])
        rest.append(left[len(train[-1]) :] if held_out is None else ranked[parts == held_out])
    rows = [np.sort(np.concatenate(part)).astype(np.int32) for part in (train, val, rest)]
    return Split(rows[0], rows[1], rows[2], _digest(images, rows))


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
