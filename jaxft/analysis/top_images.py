"""Images that activate each unit most, their labels, and how they differ before and after training."""

from typing import Any, NamedTuple

import numpy as np

from jaxft.analysis.unit_statistics import Responses, checked_labels


class TopImages(NamedTuple):
    """The k images with the largest activation of each of c units, in descending order.

    Equal activations are in the order of the images. If there are fewer than k images, the last rows have the
    activation -inf, and the image and the label -1. `plus` merges further images.

    Attributes:
      activations: [k, c], the largest activation over the positions of the image.
      images: [k, c], the index of the image.
      positions: [k, c, 2], row and column of the first position with this activation.
      labels: [k, c], the label of the image; negative for an image without a label.
    """

    activations: np.ndarray
    images: np.ndarray
    positions: np.ndarray
    labels: np.ndarray

    def plus(self, other: "TopImages") -> "TopImages":
        """Returns the k top images among those of both; the indices of the images must be of one data set."""
        both = TopImages(*(np.concatenate(pair) for pair in zip(self, other)))
        return _largest(both, len(self.images))

    @property
    def is_active(self) -> np.ndarray:
        """Returns [k, c] bool, whether the activation is above 0. A dead unit has no such image."""
        return self.activations > 0


def top_images(batch: Responses, labels: Any, count: int = 9, first_image: int = 0) -> TopImages:
    """Returns the `count` images of one batch with the largest activation of each unit.

    The top images of a stream are `functools.reduce(TopImages.plus, (top_images(...) for each batch))`.

    Args:
      batch: `responses` of n images.
      labels: [n] integers; negative for an image without a label.
      count: the number k of images of each unit; nine in the reference.
      first_image: the index of the first image of the batch in the data set.

    Raises:
      ValueError: `count` is below 1, or the labels are wrong.

    Reference: Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", section 4.
    """
    if count < 1:
        raise ValueError(f"`count` is {count}; it must be at least 1.")
    n, c = batch.maximum.shape
    labels = checked_labels(labels, n, np.iinfo(np.int64).max)
    images = np.broadcast_to(first_image + np.arange(n)[:, None], (n, c))
    candidates = TopImages(batch.maximum, images, batch.positions, np.broadcast_to(labels[:, None], (n, c)))
    return _largest(candidates, count)


def _largest(candidates: TopImages, count: int) -> TopImages:
    """Returns the first `count` candidates of each unit, filled up to `count` rows."""
    order = np.lexsort((candidates.images, -candidates.activations), 0)[:count]
    missing = ((0, count - len(order)), (0, 0))
    return TopImages(
        activations=np.pad(np.take_along_axis(candidates.activations, order, 0), missing, constant_values=-np.inf),
        images=np.pad(np.take_along_axis(candidates.images, order, 0), missing, constant_values=-1),
        positions=np.pad(np.take_along_axis(candidates.positions, order[..., None], 0), (*missing, (0, 0))),
        labels=np.pad(np.take_along_axis(candidates.labels, order, 0), missing, constant_values=-1),
    )


def label_entropy(top: TopImages) -> np.ndarray:
    """Returns [c], the entropy in bits of the labels of the top images of each unit.

    It is 0 if all images have one label. Only images with a label and an activation above 0 count; without them, the
    entropy is nan.

    Args:
      top: the top images of c units.

    Reference: Agrawal, Girshick & Malik 2014, "Analyzing the performance of multilayer neural networks for object
    recognition", for the entropy of the labels of the top images of a filter.
    """
    counts_now = top.is_active & (top.labels >= 0)
    return np.array([_entropy(top.labels[rows, i]) for i, rows in enumerate(counts_now.T)])


def _entropy(labels: np.ndarray) -> float:
    fractions = np.unique(labels, return_counts=True)[1] / max(len(labels), 1)
    return float(-(fractions * np.log2(fractions)).sum()) + 0.0 if len(labels) else float("nan")


def top_jaccard(before: TopImages, after: TopImages) -> np.ndarray:
    """Returns [c], the Jaccard index |A and B| / |A or B| of the top images A before and B after training.

    Only images with an activation above 0 count. The index is nan for a unit that is dead before and after training.

    Args:
      before: the top images of c units before training.
      after: the top images of the same units after training, among the same images.

    Raises:
      ValueError: the numbers of units differ.
    """
    _check_widths(before, after)
    sets = zip(_active_sets(before), _active_sets(after))
    return np.array([len(a & b) / len(a | b) if a | b else np.nan for a, b in sets])


class ChangedUnit(NamedTuple):
    """A unit whose top images changed.

    Attributes:
      unit: the index of the unit.
      similarity: the similarity of the unit before and after training.
      kept: the images that are among the top images before and after training.
      lost: the images that are among the top images only before training.
      gained: the images that are among the top images only after training.
    """

    unit: int
    similarity: float
    kept: tuple[int, ...]
    lost: tuple[int, ...]
    gained: tuple[int, ...]


def most_changed_units(
    before: TopImages, after: TopImages, count: int = 10, similarity: np.ndarray | None = None
) -> list[ChangedUnit]:
    """Returns the `count` units with the smallest similarity, with their images, from the smallest similarity.

    Units whose similarity is nan are left out. The images are in descending order of activation; only images with an
    activation above 0 are included.

    Args:
      before: the top images of c units before training.
      after: the top images of the same units after training, among the same images.
      count: the number of units.
      similarity: [c], such as `PairSums.correlation`. If None, the Jaccard index of the top images.

    Raises:
      ValueError: `count` is below 1, or the numbers of units differ.
    """
    _check_widths(before, after)
    similarity = top_jaccard(before, after) if similarity is None else np.asarray(similarity)
    if count < 1 or similarity.shape != before.images.shape[1:]:
        raise ValueError(
            f"`count` is {count} and the similarity has the shape {list(similarity.shape)}; they must be at least 1 "
            f"and [{before.images.shape[1]}]."
        )
    order = np.argsort(similarity, kind="stable")  # nan comes last
    a, b = _active_sets(before), _active_sets(after)
    return [
        ChangedUnit(
            unit=int(i),
            similarity=float(similarity[i]),
            kept=_in_order(after.images[:, i], a[i] & b[i]),
            lost=_in_order(before.images[:, i], a[i] - b[i]),
            gained=_in_order(after.images[:, i], b[i] - a[i]),
        )
        for i in order[:count]
        if not np.isnan(similarity[i])
    ]


def _in_order(images: np.ndarray, members: set[int]) -> tuple[int, ...]:
    return tuple(int(image) for image in images if image in members)


def _active_sets(top: TopImages) -> list[set[int]]:
    return [set(images[rows].tolist()) for images, rows in zip(top.images.T, top.is_active.T)]


def _check_widths(before: TopImages, after: TopImages) -> None:
    if before.images.shape[1] != after.images.shape[1]:
        raise ValueError(f"there are {before.images.shape[1]} units before and {after.images.shape[1]} after training.")
