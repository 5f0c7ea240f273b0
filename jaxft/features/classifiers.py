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
    """The training data of a classifier.

    Attributes:
      features: [n, d], scaled.
      labels: [n], class numbers.
      num_classes: number of classes.
      class_weights: [classes] or a scalar, the weight of each class in the loss.
    """

    features: np.ndarray
    labels: np.ndarray
    num_classes: int
    class_weights: np.ndarray


@dataclass(frozen=True)
class FittedClassifier:
    """A classifier that is fitted at each of several levels, such as L2 penalties.

    Attributes:
      predict: (features [m, d], slice of the levels) -> predicted classes [levels, m] int32.
      losses: (features [m, d], labels [m]) -> mean losses [levels]; 0 for a classifier without a loss.
      by_level: arrays [levels] about the fit, which the record of the trial stores.
    """

    predict: Callable[[np.ndarray, slice], np.ndarray]
    losses: Callable[[np.ndarray, np.ndarray], np.ndarray]
    by_level: dict[str, np.ndarray] = field(default_factory=dict)


class Classifier(Protocol):
    """A kind of classifier.

    Attributes:
      level_field: field of `training.classifier` with the levels from which validation selects. If None, the classifier
        has no levels.
    """

    level_field: str | None

    def levels(self, config: ClassifierConfig, num_train: int) -> tuple[float, ...]:
        """Returns the levels for `num_train` training images; () if the classifier has no levels.

        Raises:
          UserError: no level is possible for this number of images.
        """
        ...

    def fit(self, train: TrainingFeatures, levels: Sequence[float], config: ClassifierConfig) -> FittedClassifier:
        """Returns the classifier, fitted at each level."""
        ...


@dataclass(frozen=True)
class LinearClassifier:
    """A linear classifier with a loss and an L2 penalty: logistic regression or support vector machine."""

    loss: linear.Loss
    level_field: str | None = "penalties"

    def levels(self, config: ClassifierConfig, num_train: int) -> tuple[float, ...]:
        """Returns the L2 penalties."""
        return config.penalties

    def fit(self, train: TrainingFeatures, levels: Sequence[float], config: ClassifierConfig) -> FittedClassifier:
        """Returns the classifier, fitted with each L2 penalty.

        If there are more features than training images, the classifier is fitted in the span of the images.
        """
        weights = np.broadcast_to(train.class_weights, (train.num_classes,))[train.labels]
        wide = train.features.shape[1] > len(train.features)
        axes = linear.span(train.features) if wide else None

        def projected(features: np.ndarray) -> np.ndarray:
            return features if axes is None else features @ axes

        fitted = linear.fit(self.loss, projected(train.features), train.labels, train.num_classes, levels, weights)

        def predict(features: np.ndarray, selection: slice) -> np.ndarray:
            selected = linear.Fitted(*(array[selection] for array in fitted))
            return selected.scores(projected(features)).argmax(-1).astype(np.int32)

        def losses(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
            all_scores, labels_on_device = fitted.scores(projected(features)), jnp.asarray(labels)
            return np.array(
                [np.mean(linear.losses(self.loss, jnp.asarray(scores), labels_on_device)) for scores in all_scores]
            )

        by_level = {"levels": np.array(levels), "iterations": fitted.num_iterations, "remaining": fitted.remaining}
        return FittedClassifier(predict, losses, by_level)


@dataclass(frozen=True)
class NearestNeighbors:
    """The most frequent class among the k nearest training images."""

    level_field: str | None = "num_neighbors"

    def levels(self, config: ClassifierConfig, num_train: int) -> tuple[float, ...]:
        """Returns the numbers of neighbors that do not exceed the number of training images.

        Raises:
          UserError: all numbers of neighbors exceed the number of training images.
        """
        levels = tuple(k for k in config.num_neighbors if k <= num_train)
        if not levels:
            raise UserError(
                f"config field 'training.classifier.num_neighbors' is {list(config.num_neighbors)}, but there are only "
                f"{num_train} training images; give a number that is not larger."
            )
        return levels

    def fit(self, train: TrainingFeatures, levels: Sequence[float], config: ClassifierConfig) -> FittedClassifier:
        """Returns the classifier, for each number of neighbors."""
        ks = [int(k) for k in levels]
        training_data = train.features, train.labels, train.num_classes
        return FittedClassifier(
            lambda features, selection: linear.predict_by_neighbors(
                *training_data, features, ks[selection], config.metric
            ),
            lambda features, labels: np.zeros(len(ks)),
            {"levels": np.array(ks)},
        )


@dataclass(frozen=True)
class NearestMean:
    """The class with the nearest mean feature."""

    level_field: str | None = None

    def levels(self, config: ClassifierConfig, num_train: int) -> tuple[float, ...]:
        """Returns (), because this classifier has no levels."""
        return ()

    def fit(self, train: TrainingFeatures, levels: Sequence[float], config: ClassifierConfig) -> FittedClassifier:
        """Returns the classifier, with the mean features of the classes."""
        training_data = train.features, train.labels, train.num_classes
        return FittedClassifier(
            lambda features, selection: linear.predict_by_means(*training_data, features, config.metric)[None],
            lambda features, labels: np.zeros(1),
        )


CLASSIFIERS.register("logistic", LinearClassifier("logistic"), help="logistic regression with an L2 penalty")
CLASSIFIERS.register("svm", LinearClassifier("svm"), help="support vector machine with an L2 penalty")
CLASSIFIERS.register("knn", NearestNeighbors(), help="k nearest neighbors")
CLASSIFIERS.register("class_mean", NearestMean(), help="nearest class mean")
