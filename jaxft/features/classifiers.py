"""Classifiers of features. A classifier is a class, and a line that registers it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from jaxft.analysis import linear
from jaxft.config.training import ClassifierConfig
from jaxft.core.errors import UserError
from jaxft.core.registries import CLASSIFIERS


@dataclass(frozen=True, eq=False)
class TrainingFeatures:
    """What a classifier is fitted to.

    Attributes:
      features: [n, d], scaled.
      labels: [n] numbers of classes.
      num_classes: how many classes there are.
      class_weights: [classes] or a scalar: the weight of each class in the loss.
    """

    features: np.ndarray
    labels: np.ndarray
    num_classes: int
    class_weights: np.ndarray


@dataclass(frozen=True)
class FittedClassifier:
    """A classifier that is fitted at several levels, such as penalties, side by side.

    Attributes:
      predict: (features [m, d], which levels) -> classes [levels, m] int32.
      losses: (features [m, d], labels [m]) -> mean loss [levels]; 0 for a classifier without a loss.
      by_level: arrays [levels] about the fit, which the record of a trial keeps.
    """

    predict: Callable[[np.ndarray, slice], np.ndarray]
    losses: Callable[[np.ndarray, np.ndarray], np.ndarray]
    by_level: dict[str, np.ndarray] = field(default_factory=dict)


class Classifier(Protocol):
    """A kind of classifier.

    Attributes:
      level_field: the field of `training.classifier` with the levels that validation selects from; None for a
        classifier without levels.
    """

    level_field: str | None

    def levels(self, config: ClassifierConfig, num_train: int) -> tuple[float, ...]:
        """Returns the levels for so many images to train on; none for a classifier without levels.

        Raises:
          UserError: no level suits.
        """
        ...

    def fit(self, train: TrainingFeatures, levels: Sequence[float], config: ClassifierConfig) -> FittedClassifier:
        """Returns the classifier fitted at each of the levels."""
        ...


@dataclass(frozen=True)
class LinearClassifier:
    """A linear classifier with a loss and an L2 penalty: a logistic regression, or a support vector machine."""

    loss: linear.Loss
    level_field: str | None = "penalties"

    def levels(self, config: ClassifierConfig, num_train: int) -> tuple[float, ...]:
        """Returns the penalties."""
        return config.penalties

    def fit(self, train: TrainingFeatures, levels: Sequence[float], config: ClassifierConfig) -> FittedClassifier:
        """Returns the classifier fitted with each penalty. More features than images are fitted in the images' span."""
        weights = np.broadcast_to(train.class_weights, (train.num_classes,))[train.labels]
        wide = train.features.shape[1] > len(train.features)
        axes = linear.span(train.features) if wide else None

        def projected(features: np.ndarray) -> np.ndarray:
            return features if axes is None else features @ axes

        fitted = linear.fit(self.loss, projected(train.features), train.labels, train.num_classes, levels, weights)

        def predict(features: np.ndarray, which: slice) -> np.ndarray:
            chosen = linear.Fitted(*(array[which] for array in fitted))
            return chosen.scores(projected(features)).argmax(-1).astype(np.int32)

        def losses(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
            scores, labels_on_device = fitted.scores(projected(features)), jnp.asarray(labels)
            return np.array([np.mean(linear.losses(self.loss, jnp.asarray(each), labels_on_device)) for each in scores])

        about = {"levels": np.array(levels), "iterations": fitted.num_iterations, "remaining": fitted.remaining}
        return FittedClassifier(predict, losses, about)


@dataclass(frozen=True)
class NearestNeighbors:
    """The class of most of the k nearest images to train on."""

    level_field: str | None = "num_neighbors"

    def levels(self, config: ClassifierConfig, num_train: int) -> tuple[float, ...]:
        """Returns the numbers of neighbors that there are as many images for."""
        levels = tuple(k for k in config.num_neighbors if k <= num_train)
        if not levels:
            raise UserError(
                f"config field 'training.classifier.num_neighbors' is {list(config.num_neighbors)}, but there are "
                f"{num_train} images to train on; give a number that is no larger."
            )
        return levels

    def fit(self, train: TrainingFeatures, levels: Sequence[float], config: ClassifierConfig) -> FittedClassifier:
        """Returns the classifier with each number of neighbors."""
        numbers = [int(k) for k in levels]
        known = train.features, train.labels, train.num_classes
        return FittedClassifier(
            lambda features, which: linear.predict_by_neighbors(*known, features, numbers[which], config.metric),
            lambda features, labels: np.zeros(len(numbers)),
            {"levels": np.array(numbers)},
        )


@dataclass(frozen=True)
class NearestMean:
    """The class whose mean feature is nearest."""

    level_field: str | None = None

    def levels(self, config: ClassifierConfig, num_train: int) -> tuple[float, ...]:
        """Returns no levels."""
        return ()

    def fit(self, train: TrainingFeatures, levels: Sequence[float], config: ClassifierConfig) -> FittedClassifier:
        """Returns the classifier with the mean features of the classes."""
        known = train.features, train.labels, train.num_classes
        return FittedClassifier(
            lambda features, which: linear.predict_by_means(*known, features, config.metric)[None],
            lambda features, labels: np.zeros(1),
        )


CLASSIFIERS.register("logistic", LinearClassifier("logistic"), help="logistic regression with an L2 penalty")
CLASSIFIERS.register("svm", LinearClassifier("svm"), help="support vector machine with an L2 penalty")
CLASSIFIERS.register("knn", NearestNeighbors(), help="k nearest neighbors")
CLASSIFIERS.register("class_mean", NearestMean(), help="nearest class mean")
