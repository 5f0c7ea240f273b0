"""Linear probes: the accuracy of a linear classifier of the pooled activations of each tap."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxft.analysis.linear import fit, make_scaling, rescale
from jaxft.analysis.unit_statistics import checked_labels

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 1))
Batches = Iterable[tuple[Mapping[str, Any], Any]]


def layer_probes(
    train: Batches, val: Batches, test: Batches, num_classes: int, penalties: tuple[float, ...] = PENALTIES
) -> dict[str, float]:
    """Returns {tap: test accuracy, in [0, 1]} of a multinomial logistic regression of each tap.

    Activations [n, height, width, c] are averaged over the positions, so only [n, c] is kept of each batch. Features
    are standardized by the training images. The penalty is the one with the highest validation accuracy, the largest of
    several.

    Args:
      train: ({tap: activations [n, ...]}, labels [n]) of each batch of training images.
      val: batches of validation images.
      test: batches of test images.
      num_classes: the number of classes.
      penalties: the L2 penalties that are tried, as in `linear.fit`.

    Raises:
      ValueError: a set has no images, the activations are not finite, or the labels are wrong.

    Reference: Alain & Bengio 2017, "Understanding intermediate layers using linear classifier probes".
    """
    subsets = [_pooled(batches, num_classes) for batches in (train, val, test)]
    order = sorted(penalties, reverse=True)
    accuracies = {}
    for tap in subsets[0][0]:
        shift, scale = make_scaling("standard", subsets[0][0][tap])
        x, x_val, x_test = (rescale("standard", features[tap], shift, scale) for features, _ in subsets)
        labels, val_labels, test_labels = (of_subset for _, of_subset in subsets)
        fitted = fit("logistic", x, labels, num_classes, order)
        best = int((fitted.scores(x_val).argmax(2) == val_labels[None]).mean(1).argmax())
        accuracies[tap] = float((fitted.scores(x_test)[best].argmax(1) == test_labels).mean())
    return accuracies


def _pooled(batches: Batches, num_classes: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns ({tap: [n, c]}, labels [n]) of all batches."""
    features: dict[str, list[np.ndarray]] = {}
    labels = []
    for activations, of_batch in batches:
        labels.append(checked_labels(of_batch, len(np.asarray(of_batch)), num_classes))
        for tap, values in activations.items():
            array = np.asarray(values, np.float32)
            features.setdefault(tap, []).append(array.mean((1, 2)) if array.ndim == 4 else array)
    if not labels:
        raise ValueError("a set of images has no batches.")
    together = {tap: np.concatenate(parts) for tap, parts in features.items()}
    if wrong := [tap for tap, values in together.items() if not np.isfinite(values).all()]:
        raise ValueError(f"the activations of {wrong[0]!r} are not finite.")
    if (np.concatenate(labels) < 0).any():
        raise ValueError("an image has no label; leave it out.")
    return together, np.concatenate(labels)
