"""Comparison of the predictions of two networks for the same images, and calibration."""

from typing import NamedTuple

import numpy as np

NUM_BINS = 15  # of Guo et al. 2017


class Agreement(NamedTuple):
    """The agreement of the predictions of two networks. Values without an image to count are nan.

    Attributes:
      same: fraction of images for which both networks predict the same class.
      to_right: fraction of labeled images that only the second network classifies correctly.
      to_wrong: fraction of labeled images that only the first network classifies correctly.
      error_overlap: fraction of images that both classify wrongly, among the images that one or both classify wrongly.
      error_consistency: (o - e) / (1 - e), where o is the fraction of labeled images that both classify correctly or
        both wrongly, and e is its expectation for independent errors: a_1 a_2 + (1 - a_1) (1 - a_2) with the
        accuracies a. It is 1 for errors on the same images and 0 for independent errors.
    """

    same: float
    to_right: float
    to_wrong: float
    error_overlap: float
    error_consistency: float


def agreement(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> Agreement:
    """Returns the agreement of the predicted classes `first` and `second`, both [n] integers.

    Args:
      first: predicted classes of the first network.
      second: predicted classes of the second network.
      labels: [n] integers, the true classes; negative for an image without a label.

    Raises:
      ValueError: the three arrays do not have the same shape [n].

    Reference: Geirhos et al. 2020, "Beyond accuracy" (on error consistency), equations 1 and 2.
    """
    first, second, labels = map(np.asarray, (first, second, labels))
    if first.ndim != 1 or not first.shape == second.shape == labels.shape:
        raise ValueError(
            f"the arrays have the shapes {list(first.shape)}, {list(second.shape)} and {list(labels.shape)}; they must "
            "be equal, with one axis."
        )
    is_labeled = labels >= 0
    is_right = [(predicted == labels)[is_labeled] for predicted in (first, second)]
    either_wrong, both_wrong = ~(is_right[0] & is_right[1]), ~(is_right[0] | is_right[1])
    accuracies = [_mean(right) for right in is_right]
    expected = accuracies[0] * accuracies[1] + (1 - accuracies[0]) * (1 - accuracies[1])
    observed = _mean(is_right[0] == is_right[1])
    return Agreement(
        _mean(first == second),
        _mean(~is_right[0] & is_right[1]),
        _mean(is_right[0] & ~is_right[1]),
        both_wrong.sum() / either_wrong.sum() if either_wrong.any() else float("nan"),
        (observed - expected) / (1 - expected) if expected < 1 else float("nan"),
    )


def calibration_error(confidences: np.ndarray, is_right: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Returns the expected calibration error, in [0, 1]; nan without images.

    ECE = sum_b n_b / n |accuracy_b - confidence_b| over bins of equal width of the confidence, the probability of the
    predicted class. A bin contains its upper end.

    Args:
      confidences: [n], the probability of the predicted class, in [0, 1].
      is_right: [n] bool, whether the prediction is correct.
      num_bins: number of bins, at least 1.

    Raises:
      ValueError: the shapes differ, a confidence is outside [0, 1], or there are no bins.

    Reference: Guo et al. 2017, "On calibration of modern neural networks", equation 3.
    """
    confidences, is_right = np.asarray(confidences, np.float64), np.asarray(is_right, bool)
    if confidences.ndim != 1 or confidences.shape != is_right.shape or num_bins < 1:
        raise ValueError(
            f"the shapes are {list(confidences.shape)} and {list(is_right.shape)}, with {num_bins} bins; both arrays "
            "must be [n], with at least 1 bin."
        )
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError("a confidence is not in [0, 1].")
    if not len(confidences):
        return float("nan")
    bins = np.clip(np.ceil(confidences * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, is_right - confidences, num_bins)  # n_b (accuracy_b - confidence_b)
    return float(np.abs(gaps).sum() / len(confidences))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
