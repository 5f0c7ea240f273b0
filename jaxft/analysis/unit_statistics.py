"""Statistics of single units (channels of an activation): selectivity, sparsity, dead units, and average precision.

The statistics are sums over images, so that a stream of batches needs the memory of one batch.
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.ops.precision import at_least_float32

Reduction = Literal["max", "mean"]
MAX_BYTES = 2**28


class Responses(NamedTuple):
    """The activations of each image, reduced over positions.

    Attributes:
      maximum: [n, c], the largest activation.
      mean: [n, c], the mean activation.
      positions: [n, c, 2], row and column of the first position with the largest activation.
    """

    maximum: np.ndarray
    mean: np.ndarray
    positions: np.ndarray


def responses(activations: Any) -> Responses:
    """Returns the largest and the mean activation of each image, [n, c], and the position of the largest one.

    The other functions of units take this result, which is much smaller than the activations.

    Args:
      activations: [n, height, width, c], or [n, c] for a layer without positions.

    Raises:
      ValueError: the activations have another number of axes, are empty, or are not finite.
    """
    if np.ndim(activations) not in (2, 4) or 0 in np.shape(activations):
        raise ValueError(
            f"the activations have the shape {list(np.shape(activations))}; it must be [n, height, width, c] or "
            "[n, c], without an empty axis."
        )
    maximum, mean, index = map(np.asarray, _responses(jnp.asarray(activations)))
    if num_wrong := int((~np.isfinite(mean)).any(0).sum()):
        raise ValueError(f"the activations of {num_wrong} of {mean.shape[1]} units are not finite.")
    width = np.shape(activations)[2] if np.ndim(activations) == 4 else 1
    return Responses(maximum, mean, np.stack([index // width, index % width], -1))


@jax.jit
def _responses(activations: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = at_least_float32(activations)
    x = x.reshape(len(x), -1, x.shape[-1])
    return x.max(1), x.mean(1), x.argmax(1)


class UnitSums(NamedTuple):
    """Sums over images of the activations of c units, in float64. `plus` adds those of further images.

    Attributes:
      class_counts: [classes], the number of images of each class; images without a label are not counted.
      class_sums: [classes, c], the sum of the activations over the images of each class.
      num_images: the number of all images.
      total: [c], the sum over all images.
      squares: [c], the sum of the squares.
      smallest: [c], the smallest activation of an image.
      peak: [c], the largest activation over all images and positions.
    """

    class_counts: np.ndarray
    class_sums: np.ndarray
    num_images: int
    total: np.ndarray
    squares: np.ndarray
    smallest: np.ndarray
    peak: np.ndarray

    def plus(self, other: "UnitSums") -> "UnitSums":
        """Returns the sums over the images of both."""
        return UnitSums(
            class_counts=self.class_counts + other.class_counts,
            class_sums=self.class_sums + other.class_sums,
            num_images=self.num_images + other.num_images,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            smallest=np.minimum(self.smallest, other.smallest),
            peak=np.maximum(self.peak, other.peak),
        )

    @property
    def class_means(self) -> np.ndarray:
        """Returns [classes, c], the mean activation for the images of each class; nan for a class without images."""
        counts = self.class_counts[:, None]
        return np.where(counts > 0, self.class_sums / np.maximum(counts, 1), np.nan)

    @property
    def is_dead(self) -> np.ndarray:
        """Returns [c] bool, whether no activation of the unit is above 0, for any image and position."""
        return self.peak <= 0

    @property
    def fraction_dead(self) -> float:
        """Returns the fraction of dead units."""
        return float(self.is_dead.mean())

    @property
    def selectivity(self) -> np.ndarray:
        """Returns [c], the class selectivity (mu_max - mu_-max) / (mu_max + mu_-max) of each unit.

        mu_max is the largest class mean, and mu_-max is the mean of the other class means. The selectivity is between 0
        (equal class means) and 1 (active for one class only). It is nan for a unit that is 0 for all images with a
        label or negative for an image, and for all units if fewer than two classes have images.

        Reference: Morcos et al. 2018, "On the importance of single directions for generalization", section on class
        selectivity; with the mean over positions there.
        """
        means = self.class_means[self.class_counts > 0]
        if len(means) < 2:
            return np.full(self.total.shape, np.nan)
        largest = means.max(0)
        others = (means.sum(0) - largest) / (len(means) - 1)
        return _ratio(largest - others, np.where(self.smallest >= 0, largest + others, 0))

    @property
    def sparsity(self) -> np.ndarray:
        """Returns [c], the lifetime sparsity S = (1 - A) / (1 - 1 / n), with A = (sum r / n)^2 / (sum r^2 / n).

        The sums are over n images with activations r; A is the activity ratio of Treves & Rolls. S is 0 for a unit that
        is equally active for all images, and 1 for a unit that is active for one image. It is nan for one image, for a
        unit that is 0 for all images, and for a unit that is negative for an image.

        Reference: Vinje & Gallant 2000, "Sparse coding and decorrelation in primary visual cortex during natural
        vision"; Treves & Rolls 1991, "What determines the capacity of autoassociative memories in the brain?".
        """
        n = self.num_images
        if n < 2:
            return np.full(self.total.shape, np.nan)
        activity = _ratio(self.total**2, np.where(self.smallest >= 0, n * self.squares, 0))
        return np.maximum(1 - activity, 0) / (1 - 1 / n)


def unit_sums(batch: Responses, labels: Any, num_classes: int, reduction: Reduction = "max") -> UnitSums:
    """Returns the sums over the images of one batch.

    The sums over a stream are `functools.reduce(UnitSums.plus, (unit_sums(...) for each batch))`.

    Args:
      batch: `responses` of n images.
      labels: [n] integers below `num_classes`; negative for an image without a label.
      num_classes: the number of classes.
      reduction: the activation of an image: the maximum or the mean over its positions.

    Raises:
      ValueError: the labels or the reduction are wrong.
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"`reduction` is {reduction!r}; it must be 'max' or 'mean'.")
    labels = checked_labels(labels, len(batch.mean), num_classes)
    values = (batch.maximum if reduction == "max" else batch.mean).astype(np.float64)
    is_of_class = labels[None] == np.arange(num_classes)[:, None]
    return UnitSums(
        class_counts=is_of_class.sum(1),
        class_sums=is_of_class.astype(np.float64) @ values,
        num_images=len(values),
        total=values.sum(0),
        squares=(values**2).sum(0),
        smallest=values.min(0),
        peak=batch.maximum.max(0),
    )


class PairSums(NamedTuple):
    """Centered sums over n images of the activations of c units before and after training, in float64.

    Attributes:
      num_images: n.
      means: [2, c], the means before and after training.
      squares: [2, c], the sums of (x - mean)^2.
      products: [c], the sum of the products (x - mean of x) (y - mean of y).
    """

    num_images: int
    means: np.ndarray
    squares: np.ndarray
    products: np.ndarray

    def plus(self, other: "PairSums") -> "PairSums":
        """Returns the sums over the images of both (Chan, Golub & LeVeque 1983)."""
        n = self.num_images + other.num_images
        shift = other.means - self.means
        weight = self.num_images * other.num_images / n
        return PairSums(
            num_images=n,
            means=self.means + shift * other.num_images / n,
            squares=self.squares + other.squares + weight * shift**2,
            products=self.products + other.products + weight * shift[0] * shift[1],
        )

    @property
    def correlation(self) -> np.ndarray:
        """Returns [c], the Pearson correlation over images; nan for a unit that is constant on one side."""
        return _ratio(self.products, np.sqrt(self.squares[0] * self.squares[1]))


def pair_sums(before: np.ndarray, after: np.ndarray) -> PairSums:
    """Returns the sums of one batch of activations, such as `responses(...).mean`.

    The sums over a stream are `functools.reduce(PairSums.plus, (pair_sums(...) for each batch))`.

    Args:
      before: [n, c], activations before training.
      after: [n, c], activations after training, for the same images.

    Raises:
      ValueError: the shapes differ, or there are no images.
    """
    x, y = (np.asarray(each, np.float64) for each in (before, after))
    if x.ndim != 2 or x.shape != y.shape or not len(x):
        raise ValueError(f"the shapes are {list(x.shape)} and {list(y.shape)}; both must be [n, c], with n above 0.")
    means = np.stack([x.mean(0), y.mean(0)])
    dx, dy = x - means[0][None], y - means[1][None]
    return PairSums(len(x), means, np.stack([(dx * dx).sum(0), (dy * dy).sum(0)]), (dx * dy).sum(0))


def average_precision(activations: Any, labels: Any, num_classes: int, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Returns [classes, c], the average precision of each unit as a detector of each class.

    The activation of the unit is the score of an image. AP = sum_t (R_t - R_(t-1)) P_t over the thresholds t, with
    precision P and recall R; images with equal activations pass the threshold together, as in scikit-learn. A constant
    unit has the fraction of the class. A class without images has nan.

    Args:
      activations: [n, c], such as `responses(...).maximum`, for all images: the precision needs the order of all.
      labels: [n] integers below `num_classes`; images with a negative label are left out.
      num_classes: the number of classes.
      max_bytes: the largest memory for intermediate arrays; it decides how many units are computed together.

    Raises:
      ValueError: the activations are not finite, or the shapes or the labels are wrong.

    Reference: Agrawal, Girshick & Malik 2014, "Analyzing the performance of multilayer neural networks for object
    recognition", section on grandmother cells; Barlow 1972, "Single units and sensation", for the idea of a unit as a
    detector.
    """
    values = np.asarray(activations)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"the activations have the shape {list(values.shape)}; they must be [n, c] and finite.")
    labels = checked_labels(labels, len(values), num_classes)
    values, labels = values[labels >= 0], labels[labels >= 0]
    step = max(max_bytes // (64 * max(len(values), 1)), 1)  # about eight arrays of 8 bytes
    blocks = [values[:, begin : begin + step] for begin in range(0, values.shape[1], step)]
    return np.concatenate([_average_precision(block, labels, num_classes) for block in blocks], 1)


def _average_precision(values: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the mean over the images of each class of the precision at their activation."""
    num_selected = _num_at_least(values)
    precisions = np.full((num_classes, values.shape[1]), np.nan)
    for label in np.unique(labels):
        rows = labels == label
        precisions[label] = (_num_at_least(values[rows]) / num_selected[rows]).mean(0)
    return precisions


def _num_at_least(values: np.ndarray) -> np.ndarray:
    """Returns [n, c], for each entry of `values: [n, c]` the number of entries in its column that are at least it."""
    order = np.argsort(values, 0)
    in_order = np.take_along_axis(values, order, 0)
    is_larger = np.diff(in_order, axis=0, prepend=in_order[:1]) > 0
    num_smaller = np.maximum.accumulate(np.where(is_larger, np.arange(len(values))[:, None], 0), 0)
    counts = np.empty_like(order)
    np.put_along_axis(counts, order, len(values) - num_smaller, 0)
    return counts


def checked_labels(labels: Any, num_images: int, num_classes: int) -> np.ndarray:
    """Returns the labels [n] as integers.

    Args:
      labels: [n] integers; negative for an image without a label.
      num_images: n.
      num_classes: the number of classes.

    Raises:
      ValueError: the labels are not [n] integers below `num_classes`.
    """
    labels = np.asarray(labels)
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu" or (labels >= num_classes).any():
        raise ValueError(
            f"the labels have the shape {list(labels.shape)} and the dtype {labels.dtype}; they must be "
            f"[{num_images}] integers below {num_classes}."
        )
    return labels


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the ratio, and nan where the denominator is not above 0."""
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)
