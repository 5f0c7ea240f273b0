"""Trials of classifiers of features: what a network has of the images as it starts, without training the network.

Such a trial ends as one that trains does: a level of the classifier is chosen on validation, and the test images are
read once.
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
from jaxft.core.text import byte_size
from jaxft.data.augmentation.augment import Augmentations
from jaxft.data.streaming import Pixels
from jaxft.features.classifiers import CLASSIFIERS, Classifier, TrainingFeatures
from jaxft.features.feature_spec import FeatureSpec
from jaxft.features.prefix import Prefix, num_features, output_shape
from jaxft.models import Network, Preprocessing
from jaxft.ops.pooling import POOLINGS


@dataclass(frozen=True)
class FeatureClassifier:
    """Everything static in a trial of a classifier of features.

    Attributes:
      config: the kind of classifier and its fields.
      feature_spec: the features that it is of.
      levels: what validation selects from, such as penalties; none, if the classifier has no levels.
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
        """Returns the field that the levels are of, if any."""
        return self.classifier.level_field


@dataclass(frozen=True, eq=False)
class FeatureSplit:
    """Features [n, d] and labels [n] of images, and which rows are trained, selected and tested on."""

    features: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class FeatureClassifierResult:
    """The result of such a trial.

    `metrics` have their names in records ('val_accuracy'); they are None if there are no such images. `by_level` are
    [levels] arrays: the levels, the accuracy and loss on validation, and of fitted classifiers the iterations and what
    remained of the gradient. `level` is the one chosen.
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
    """Returns the classifier of a trial, resolved for a network and its images to train, select and test on.

    Raises a `UserError` where there is no such tap, where its pooling needs a map and it has none, where features of
    the images would take more than `max_bytes`, or where there are several levels and no images to choose on.
    """
    config, crop_px = training.classifier, training.augmentation.crop.size_px
    feature_spec = _make_feature_spec(model, config, preprocessing.size_px)
    size = num_features(model, feature_spec, preprocessing.size_px)
    num_train, num_val, _ = num_images
    num_bytes = 4 * size * sum(num_images)
    if num_bytes > max_bytes:
        raise UserError(
            f"training.classifier.pooling {config.pooling!r} of {feature_spec.block!r} makes {size:,} features "
            f"an image, {byte_size(num_bytes)} of all; name a tap with fewer channels, or raise "
            "'execution.feature_cache_bytes'."
        )
    levels = CLASSIFIERS[config.kind].value.levels(config, num_train)
    feature_classifier = FeatureClassifier(config, feature_spec, preprocessing, crop_px, levels)
    if len(levels) > 1 and not num_val:
        raise UserError(
            f"config field 'training.classifier.{feature_classifier.level_name}' has {len(levels)} values, but there "
            "are no images to choose on; give 'target.val_per_class' or 'target.val_fraction', or a single value."
        )
    return feature_classifier


def _make_feature_spec(model: Network, config: ClassifierConfig, size_px: int) -> FeatureSpec:
    """Returns the features that a config names, of the blocks of a network."""
    backbone = model.blocks[: model.blocks.index(model.head)]
    block = backbone[-1] if config.tap is None else _block_at(model, "tap", config.tap)
    pooling = POOLINGS[config.pooling].value
    if pooling.needs_map:
        _check_map(model, config, block, size_px)
    if not pooling.of_two_maps:
        return FeatureSpec(block, config.pooling)
    if config.cross_tap is None and block == backbone[0]:
        raise UserError(
            f"training.classifier.pooling is {config.pooling!r}, but there is no unit below {block!r}; name another "
            "tap."
        )
    below = (
        backbone[backbone.index(block) - 1]
        if config.cross_tap is None
        else _block_at(model, "cross_tap", config.cross_tap)
    )
    _check_map(model, config, below, size_px)
    if backbone.index(below) >= backbone.index(block):
        raise UserError(f"training.classifier.cross_tap {below!r} is not below training.classifier.tap {block!r}.")
    return FeatureSpec(block, config.pooling, below)


def _block_at(model: Network, field: str, name: str) -> str:
    """Returns the block below the head that is called `name`, or is the end of the stage called so."""
    backbone = model.blocks[: model.blocks.index(model.head)]
    stages = {tap.name: tap.block for tap in model.taps}
    block = stages.get(name, name)
    if block not in backbone:
        raise UserError(
            f"config field 'training.classifier.{field}' is {name!r}, which {model.architecture} does not have below "
            f"its head{did_you_mean(name, [*stages, *backbone])}; it has "
            f"{', '.join(dict.fromkeys([*stages, *backbone]))}."
        )
    return block


def _check_map(model: Network, config: ClassifierConfig, block: str, size_px: int) -> None:
    shape = output_shape(model, block, size_px)
    if len(shape) != 3:
        raise UserError(
            f"training.classifier.pooling {config.pooling!r} is of a map, but what leaves {block!r} is "
            f"none; give 'training.classifier.tap', such as {model.taps[-1].name!r}."
        )


def make_prefix(
    model: Network,
    feature_classifier: FeatureClassifier,
    feature_specs: tuple[FeatureSpec, ...],
    variables: Mapping[str, Mapping[str, Any]],
    images: Pixels,
    fingerprint: str,
) -> Prefix:
    """Returns the layers before a set of images that make all the features, of which some are the readout's.

    Args:
      variables: flat `params` and `batch_stats` of the network as it starts.
      images: [n, h, w, 3] uint8; `fingerprint` identifies them.
    """
    last = max((block for spec in feature_specs for block in spec.blocks), key=model.blocks.index)
    augmentations, no_key = (
        Augmentations.of({"crop.size_px": feature_classifier.crop_px}),
        jax.random.key_data(jax.random.key(0)),
    )
    return Prefix(
        model,
        feature_classifier.preprocessing,
        last,
        variables,
        images,
        fingerprint,
        augmentations,
        no_key,
        feature_specs=feature_specs,
    )


def fit_feature_classifier(
    feature_classifier: FeatureClassifier, data: FeatureSplit, num_classes: int, class_weights: np.ndarray
) -> FeatureClassifierResult:
    """Returns the result of a classifier of features.

    Args:
      class_weights: [classes] or a scalar, of the loss.

    Raises a `FloatingPointError` where a feature is no finite number.
    """
    config, labels = feature_classifier.config, data.labels
    if not np.isfinite(data.features).all():
        raise FloatingPointError("the features hold NaN or infinity; the network overflows on these images")
    train, val, test = (data.features[rows] for rows in (data.train, data.val, data.test))
    shift, scale = linear.make_scaling(config.scaling, train)
    train, val, test = (linear.rescale(config.scaling, features, shift, scale) for features in (train, val, test))
    fitted = feature_classifier.classifier.fit(
        TrainingFeatures(train, labels[data.train], num_classes, class_weights), feature_classifier.levels, config
    )
    by_level, best = dict(fitted.by_level), 0
    if len(val):
        on_val = fitted.predict(val, slice(None))
        accuracy = np.array([np.mean(predicted == labels[data.val]) for predicted in on_val])
        loss = fitted.losses(val, labels[data.val])
        by_level |= {"val_accuracy_by_level": accuracy, "val_loss_by_level": loss}
        best = int(np.lexsort((loss, -accuracy))[0])  # of equals the one with the least loss, then the first
    (on_test,) = fitted.predict(test, slice(best, best + 1))
    return FeatureClassifierResult(
        metrics=record_fields(
            compute_metrics(labels[data.val], on_val[best]) if len(val) else None,
            compute_metrics(labels[data.test], on_test) if len(test) else None,
        ),
        test_predictions=on_test,
        level=float(feature_classifier.levels[best]) if feature_classifier.levels else None,
        by_level=by_level,
    )
