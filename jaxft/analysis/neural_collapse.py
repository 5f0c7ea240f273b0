"""Neural collapse of the features of a classifier: how close they are to one point per class, at equal angles."""

from typing import Any, NamedTuple

import numpy as np


class NeuralCollapse(NamedTuple):
    """Measures of neural collapse; all but `nearest_mean_agreement` fall to 0 with full collapse.

    Attributes:
      within_class: NC1, tr(S_W S_B^+) / C, with the covariances within and between C classes.
      norm_spread: NC2, the standard deviation of the norms of the centered class means, divided by their mean.
      angle_spread: NC2, the standard deviation of the cosines between the centered class means.
      angle_distance: NC2, the mean of |cosine + 1 / (C - 1)| over all pairs of classes.
      duality: NC3, ||W / ||W||_F - M / ||M||_F||_F^2, with the weights W of the classifier and the centered class means
        M; nan without weights.
      nearest_mean_agreement: NC4, the fraction of images that the classifier assigns to the class with the nearest
        mean; nan without predictions.
    """

    within_class: float
    norm_spread: float
    angle_spread: float
    angle_distance: float
    duality: float
    nearest_mean_agreement: float


def neural_collapse(features: Any, labels: Any, weights: Any = None, predictions: Any = None) -> NeuralCollapse:
    """Returns the measures of neural collapse, computed in float64.

    Args:
      features: [n, d], the input of the classifier for n images.
      labels: [n] integers; every class has an image, so the classes are 0 to C - 1.
      weights: [d, C], the weights of the classifier, or None.
      predictions: [n], the classes that the classifier predicts, or None.

    Raises:
      ValueError: the shapes are wrong, a value is not finite, there are fewer than two classes, a class has no images,
        or all class means are equal.

    Reference: Papyan, Han & Donoho 2020, "Prevalence of neural collapse during the terminal phase of deep learning
    training". Class means are weighted equally, also if the classes have different sizes.
    """
    x, y = np.asarray(features, np.float64), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1] or not np.isfinite(x).all():
        raise ValueError(
            f"the features have the shape {list(x.shape)} and the labels {list(y.shape)}; they must be [n, d] and [n], "
            "and finite."
        )
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2 or classes.tolist() != list(range(len(classes))):
        raise ValueError("neural collapse needs at least two classes, 0 to C - 1, each with an image.")
    means = np.stack([x[y == label].mean(0) for label in classes])
    centered = means - means.mean(0)
    if not np.abs(centered).max() > 1e-12 * np.abs(x).max():
        raise ValueError("the means of all classes are equal.")
    residuals = (x - means[y]) / np.sqrt(counts[y] * len(classes))[:, None]
    between = centered.T @ centered / len(classes)
    norms = np.linalg.norm(centered, axis=1)
    cosines = (centered / norms[:, None] @ (centered / norms[:, None]).T)[np.triu_indices(len(classes), 1)]
    return NeuralCollapse(
        within_class=float(np.trace(residuals.T @ residuals @ np.linalg.pinv(between, rcond=1e-10)) / len(classes)),
        norm_spread=float(norms.std() / norms.mean()),
        angle_spread=float(cosines.std()),
        angle_distance=float(np.abs(cosines + 1 / (len(classes) - 1)).mean()),
        duality=_duality(weights, centered),
        nearest_mean_agreement=_agreement(x, means, predictions),
    )


def _duality(weights: Any, centered: np.ndarray) -> float:
    if weights is None:
        return float("nan")
    w = np.asarray(weights, np.float64).T
    if w.shape != centered.shape:
        raise ValueError(f"`weights` has the shape {list(w.T.shape)}; it must be {list(centered.T.shape)}.")
    return float(np.square(w / np.linalg.norm(w) - centered / np.linalg.norm(centered)).sum())


def _agreement(features: np.ndarray, means: np.ndarray, predictions: Any) -> float:
    if predictions is None:
        return float("nan")
    distances = (means**2).sum(1)[None] - 2 * features @ means.T  # without the norm of the features
    return float((distances.argmin(1) == np.asarray(predictions)).mean())
