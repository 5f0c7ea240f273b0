"""Trials of classifiers of features of the initial network. The network is not trained.

Such a trial ends like a trial that trains: validation selects a level of the classifier, and the test images are
evaluated once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxft.analysis import linear
from jaxft.config import Training
from jaxft.config.training import ClassifierConfig
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.metrics import compute_metrics, record_fields
from jaxft.core.text import byte_size, some_of
from jaxft.data.augmentation.augment import Augmentations
from jaxft.data.streaming import Pixels
from jaxft.features.classifiers import CLASSIFIERS, Classifier, TrainingFeatures
from jaxft.features.feature_spec import FeatureSpec
from jaxft.features.prefix import Prefix, num_features, output_shape
from jaxft.models import Network, Preprocessing
from jaxft.ops.pooling import POOLINGS


@dataclass(frozen=True)
class FeatureClassifier:
    """The static part of a trial of a classifier of features.

    Attributes:
      config: the kind of classifier and its fields.
      feature_spec: the features that it uses.
      preprocessing: the preprocessing of the images.
      crop_px: height and width of the center crop, in pixels. If None, images are not cropped.
      levels: the levels from which validation selects, such as L2 penalties; () if the classifier has no levels.
    """

    config: ClassifierConfig
    feature_spec: FeatureSpec
    preprocessing: Preprocessing
    crop_px: int | None
    levels: tuple[float, ...] = ()

    @property
    def classifier(self) -> Classifier:
        """Returns the kind of classifier."""
        return CLASSIFIERS[self.config.kind].value

    @property
    def level_name(self) -> str | None:
        """Returns the config field of the levels; None if the classifier has no levels."""
        return self.classifier.level_field


@dataclass(frozen=True, eq=False)
class FeatureSplit:
    """The images of a trial.

    Attributes:
      features: [n, d].
      labels: [n], class numbers.
      train, val, test: rows of the training, validation and test images.
    """

    features: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class FeatureClassifierResult:
    """The result of a trial of a classifier of features.

    Attributes:
      metrics: {name in records, such as 'val_accuracy': value}; None if there are no such images.
      test_predictions: [test images] int32, predicted classes.
      level: the selected level; None if the classifier has no levels.
      by_level: arrays [levels]: the levels, accuracy and loss on validation, and, for fitted classifiers, the number of
        iterations and the remaining gradient.
    """

    metrics: dict[str, float | None]
    test_predictions: np.ndarray
    level: float | None
    by_level: dict[str, np.ndarray]


def plan_feature_classifier(
    model: Network,
    training: Training,
    preprocessing: Preprocessing,
    num_images: tuple[int, int, int],
    max_bytes: float,
) -> FeatureClassifier:
    """Returns the classifier of a trial, resolved for a network and a number of images.

    Args:
      model: the network.
      training: the config of training.
      preprocessing: the preprocessing of the images.
      num_images: numbers of (training, validation, test) images.
      max_bytes: memory budget for the features of all images.

    Raises:
      UserError: a tap does not exist, a pooling needs a feature map and the tap has none, the features of all images
        exceed `max_bytes`, or there are several levels but no validation images.
    """
    config, crop_px = training.classifier, training.augmentation.crop.size_px
    feature_spec = _make_feature_spec(model, config, preprocessing.size_px)
    size = num_features(model, feature_spec, preprocessing.size_px)
    num_train, num_val, _ = num_images
    num_bytes = 4 * size * sum(num_images)
    if num_bytes > max_bytes:
        raise UserError(
            f"config field 'training.classifier.pooling' is {config.pooling!r}, which gives {size:,} features per "
            f"image for {feature_spec.block!r}, {byte_size(num_bytes)} in total; use a tap with fewer channels, or "
            "raise 'execution.feature_cache_bytes'."
        )
    levels = CLASSIFIERS[config.kind].value.levels(config, num_train)
    feature_classifier = FeatureClassifier(config, feature_spec, preprocessing, crop_px, levels)
    if len(levels) > 1 and not num_val:
        raise UserError(
            f"config field 'training.classifier.{feature_classifier.level_name}' has {len(levels)} values, but there "
            "are no validation images; set 'target.val_per_class' or 'target.val_fraction', or give a single value."
        )
    return feature_classifier


def _make_feature_spec(model: Network, config: ClassifierConfig, size_px: int) -> FeatureSpec:
    """Returns the features that the config selects."""
    backbone = model.blocks[: model.blocks.index(model.head)]
    block = backbone[-1] if config.tap is None else _block_at(model, "tap", config.tap)
    pooling = POOLINGS[config.pooling].value
    if pooling.needs_map:
        _check_map(model, config, block, size_px)
    if not pooling.of_two_maps:
        return FeatureSpec(block, config.pooling)
    if config.cross_tap is None and block == backbone[0]:
        raise UserError(
            f"config field 'training.classifier.pooling' is {config.pooling!r}, which needs a block below "
            f"the tap, but {block!r} is the first block; use another tap."
        )
    below = (
        backbone[backbone.index(block) - 1]
        if config.cross_tap is None
        else _block_at(model, "cross_tap", config.cross_tap)
    )
    _check_map(model, config, below, size_px)
    if backbone.index(below) >= backbone.index(block):
        raise UserError(
            f"config field 'training.classifier.cross_tap' is {below!r}, which is not below the tap {block!r}; use a "
            "block below it."
        )
    return FeatureSpec(block, config.pooling, below)


def _block_at(model: Network, field: str, name: str) -> str:
    """Returns the block below the head with the name `name`, or the last block of the stage with this name."""
    backbone = model.blocks[: model.blocks.index(model.head)]
    stages = {tap.name: tap.block for tap in model.taps}
    block = stages.get(name, name)
    if block not in backbone:
        allowed = list(dict.fromkeys([*stages, *backbone]))
        raise UserError(
            f"config field 'training.classifier.{field}' is {name!r}{did_you_mean(name, allowed)}, which is not a "
            f"stage or block of {model.architecture} below the head; it has {some_of(allowed, 3)}."
        )
    return block


def _check_map(model: Network, config: ClassifierConfig, block: str, size_px: int) -> None:
    shape = output_shape(model, block, size_px)
    if len(shape) != 3:
        raise UserError(
            f"config field 'training.classifier.pooling' is {config.pooling!r}, which needs a feature map, but the "
            f"output of {block!r} is a vector; set 'training.classifier.tap', for example to {model.taps[-1].name!r}."
        )


def make_prefix(
    model: Network,
    feature_classifier: FeatureClassifier,
    feature_specs: tuple[FeatureSpec, ...],
    variables: Mapping[str, Mapping[str, Any]],
    images: Pixels,
    fingerprint: str,
) -> Prefix:
    """Returns the prefix that computes the features of several classifiers for a set of images.

    Args:
      model: the network.
      feature_classifier: one of the classifiers; all have the same preprocessing and crop.
      feature_specs: the features of all classifiers.
      variables: flat `params` and `batch_stats` of the initial network.
      images: [n, h, w, 3] uint8.
      fingerprint: digest of the images.
    """
    last = max((block for spec in feature_specs for block in spec.blocks), key=model.blocks.index)
    augmentations = Augmentations.of({"crop.size_px": feature_classifier.crop_px})
    key = jax.random.key_data(jax.random.key(0))  # only random views use it
    return Prefix(
        model,
        feature_classifier.preprocessing,
        last,
        variables,
        images,
        fingerprint,
        augmentations,
        key,
        feature_specs=feature_specs,
    )


def fit_feature_classifier(
    feature_classifier: FeatureClassifier, data: FeatureSplit, num_classes: int, class_weights: np.ndarray
) -> FeatureClassifierResult:
    """Returns the result of a classifier of features.

    Args:
      feature_classifier: the classifier.
      data: features, labels and split of the images.
      num_classes: number of classes.
      class_weights: [classes] or a scalar, weights in the loss.

    Raises:
      FloatingPointError: a feature is not finite.
    """
    config, labels = feature_classifier.config, data.labels
    if not np.isfinite(data.features).all():
        raise FloatingPointError("the features contain NaN or infinity; the network overflows on these images")
    train, val, test = (data.features[rows] for rows in (data.train, data.val, data.test))
    shift, scale = linear.make_scaling(config.scaling, train)
    train, val, test = (linear.rescale(config.scaling, features, shift, scale) for features in (train, val, test))
    fitted = feature_classifier.classifier.fit(
        TrainingFeatures(train, labels[data.train], num_classes, class_weights), feature_classifier.levels, config
    )
    by_level, best = dict(fitted.by_level), 0
    if len(val):
        val_predictions = fitted.predict(val, slice(None))
        accuracy = np.array([np.mean(predicted == labels[data.val]) for predicted in val_predictions])
        loss = fitted.losses(val, labels[data.val])
        by_level |= {"val_accuracy_by_level": accuracy, "val_loss_by_level": loss}
        best = int(np.lexsort((loss, -accuracy))[0])  # ties are broken by the loss, then by the order of the levels
    (test_predictions,) = fitted.predict(test, slice(best, best + 1))
    return FeatureClassifierResult(
        metrics=record_fields(
            compute_metrics(labels[data.val], val_predictions[best]) if len(val) else None,
            compute_metrics(labels[data.test], test_predictions) if len(test) else None,
        ),
        test_predictions=test_predictions,
        level=float(feature_classifier.levels[best]) if feature_classifier.levels else None,
        by_level=by_level,
    )
