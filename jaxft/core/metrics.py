"""Numbers that say how good predictions are."""

import numpy as np


def mean_per_class(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Returns the mean over the classes of `labels: [n]` of the share of each class's images that are predicted right.

    Every class counts as much, however many images it has; nan where there are none.
    """
    if not len(labels):
        return float("nan")
    _, of_image, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return float((np.bincount(of_image, weights=predictions == labels) / counts).mean())
