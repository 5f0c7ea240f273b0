"""Stratified, seeded, hashed splits into training, validation and test images, and the labels that are trained on."""

import hashlib
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.data.readers.image_sets import ImageSet
from jaxft.data.sampling.factors import class_order, rank


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


def draw_split(
    images: ImageSet, seed: int, spec: Images, where: str, fold: int = 0, merged: ImageSet | None = None
) -> Split:
    """Returns a split that is drawn class by class.

    The images of a class are ranked by the sha256 of the seed and their id, so a draw depends on no library's
    generator, and draws of one seed are nested: the 5-image set lies within the 10-image one. Those to select on
    come first, then those to train on. Where the data set has a part 'test' (or 'val' alone) it is tested on, whole;
    else `spec.test_fraction` of each class, taken ahead of all else, and whatever is left over; with
    `spec.test_per_class` so many of a class, taken ahead of all else too, and nothing that is left over. Where it has
    both parts, those to select on come from 'val', all of it for a `val_fraction`; with `train_on_val` it is trained on
    instead. Where it is not `tested`, those to test on are drawn as they would be, and left out.
    Of a `val_fraction` that is m images of a class, the fold k has the k-th m of them; after the last comes the first.

    How many of a class are trained on is `train_counts`. With `spec.label_noise` some of them have a wrong label.
    `merged` are the same images with classes merged, whose labels are trained on: draws are by the classes before.

    Raises a `UserError` where a class has fewer images than are asked for; `where` names the config's field.
    """
    has = {part: bool((images.parts == part).any()) for part in ("val", "test")}
    held_out = "test" if has["test"] else "val" if has["val"] else None
    own_val = has["val"] and held_out == "test"

    tests, to_selects, vals, lefts = [], [], [], []
    for label, name in enumerate(images.class_names):
        of_class = np.flatnonzero(images.labels == label)
        ranked = of_class[np.argsort([_rank(seed, images.ids[row]) for row in of_class], kind="stable")]
        parts = images.parts[ranked]
        to_train = ranked[(parts == "train") | (parts == "")]
        if own_val and spec.train_on_val:
            to_train = ranked[parts != "test"]
        to_test = ranked[parts == held_out] if held_out else to_train
        num_test = 0 if held_out else _share(len(to_train), spec.test_fraction)
        if spec.test_per_class:
            num_test = spec.test_per_class
            _check_enough(len(to_test), {"test": num_test}, where, name)
        tests.append(to_test[:num_test] if num_test else to_test if held_out else to_test[:0])
        to_train = to_train if held_out else to_train[num_test:]
        to_select = ranked[parts == "val"] if own_val else to_train
        if spec.val_fraction:
            num_val = len(to_select) if own_val else _share(len(to_select), spec.val_fraction)
            if not own_val:
                to_select = to_train = np.roll(to_train, -fold * num_val)
        else:
            num_val = spec.val_per_class
        to_selects.append(to_select)
        vals.append(to_select[:num_val])
        lefts.append(to_train if own_val else to_train[num_val:])
        _check_enough(len(to_select), {"train": 0 if own_val else 1, "select": num_val}, where, name)

    counts = train_counts(spec, images.class_names, [len(left) for left in lefts], seed, where)
    trains, rests = [], []
    for name, to_select, test, val, left, count in zip(images.class_names, to_selects, tests, vals, lefts, counts):
        _check_enough(len(to_select), {"train": 0 if own_val else count, "select": len(val)}, where, name)
        _check_enough(len(left), {"train": max(count, 1)}, where, name)
        trains.append(left[:count])
        leaves_over = held_out is None and not spec.test_per_class
        rests.append(np.concatenate([test, left[count:]]) if leaves_over else test)
    if not spec.tested:
        rests = [test[:0] for test in tests]
    rows = [np.sort(np.concatenate(part)).astype(np.int32) for part in (trains, vals, rests)]
    final = merged or images
    labels = noisy_labels(final, rows[0], spec.label_noise, seed)
    return Split(rows[0], rows[1], rows[2], split_digest(final, rows, labels), labels)


def train_counts(
    spec: Images, class_names: Sequence[str], available: Sequence[int], seed: int, where: str
) -> list[int]:
    """Returns how many images of each class are trained on.

    Without `spec.imbalance` and `spec.num_images` it is `spec.train_per_class`, or all that are available. With an
    imbalance rho, the i-th of C classes in the order of the seed has n_max rho^(-i/(C-1)) of them, rounded, and one at
    least (Ouyang et al. 2016; Cui et al. 2019, section 5.1), where n_max is `spec.train_per_class`, or the fewest that
    a class has available. With `spec.num_images` there are so many in all: image by image goes to the class whose
    share is then the furthest behind (the method of Webster and Sainte-Lague), so that counts differ by one at most
    where there is no imbalance, and those of fewer images never exceed those of more.

    Raises a `UserError` where a class gets no image of `spec.num_images`.
    """
    if spec.num_images is None and spec.imbalance == 1:
        return [spec.train_per_class or count for count in available]
    order = class_order(class_names, seed)
    place = [order.index(name) for name in class_names]
    shares = [spec.imbalance ** (-i / (len(place) - 1)) for i in place]
    if spec.num_images is None:
        most = spec.train_per_class or min(available)
        return [max(round(most * share), 1) for share in shares]
    counts = [0] * len(shares)
    waiting = [(-share, i, label) for label, (share, i) in enumerate(zip(shares, place))]
    heapq.heapify(waiting)
    for _ in range(spec.num_images):
        _, i, label = waiting[0]
        counts[label] += 1
        heapq.heapreplace(waiting, (-shares[label] / (2 * counts[label] + 1), i, label))
    if not all(counts):
        raise UserError(
            f"'{where}.num_images' is {spec.num_images}, of which class {class_names[counts.index(0)]!r} gets none, "
            f"as {len(counts)} classes share them; raise it."
        )
    return counts


def noisy_labels(images: ImageSet, train: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns the labels of all images, [n] int32, of which a fraction of those in `train` are another class's.

    Which images these are (their number rounded) and which of the other classes each has are drawn by the seed and
    the image's id: uniformly, and nested, so that what is wrong at a tenth is wrong in the same way at a fifth.
    """
    labels = images.labels.copy()
    if not fraction:
        return labels
    num_classes = len(images.class_names)
    ranked = sorted(train.tolist(), key=lambda row: rank("noise", seed, images.ids[row]))
    for row in ranked[: round(fraction * len(ranked))]:
        others = int(rank("noisy label", seed, images.ids[row])[:16], 16) % (num_classes - 1)
        labels[row] = (labels[row] + 1 + others) % num_classes
    return labels


def _share(count: int, fraction: float) -> int:
    """Returns how many of `count` images a share is: one at least, and all but one at most."""
    return min(max(round(count * fraction), 1), count - 1) if fraction and count else 0


def _check_enough(there: int, asked: Mapping[str, int], where: str, name: str) -> None:
    """Checks that a class has the images that are asked for, to 'train', 'select' and 'test' on."""
    if there < sum(asked.values()):
        parts = {"train": 0, "select": 0} | dict(asked)
        told = ", ".join(f"{count} to {part} on" for part, count in parts.items())
        raise UserError(
            f"class {name!r} has {there} images to draw from, but '{where}' asks for {sum(asked.values())} ({told})."
        )


def _rank(seed: int, image_id: str) -> str:
    return hashlib.sha256(f"{seed}:{image_id}".encode()).hexdigest()


def split_digest(images: ImageSet, rows: Sequence[np.ndarray], labels: np.ndarray) -> str:
    """Returns 16 hexadecimal digits that name the rows to train, select and test on, by their ids and labels."""
    total = hashlib.sha256()
    for name, part in zip(("train", "val", "test"), rows):
        total.update(f"{name}\n".encode())
        for row in part:
            total.update(f"{images.ids[row]} {images.class_names[labels[row]]}\n".encode())
    return total.hexdigest()[:16]
