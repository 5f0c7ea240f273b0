"""Classifiers of features: what a network as it starts has of the images, and no training of the network.

A trial of this kind ends as one that trains does: a level of the classifier is chosen on validation, and the test
images are read once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.analysis import linear
from jaxft.analysis.linear import Metric, Scaling
from jaxft.config import Training
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.metrics import mean_per_class
from jaxft.data.augmentation.augment import Changes
from jaxft.data.streaming import Pixels
from jaxft.features.prefix import Prefix, num_features, output_shape
from jaxft.models import Network, Preprocessing
from jaxft.ops.pooling import NEEDS_MAP, Look


@dataclass(frozen=True)
class Readout:
    """Everything static in such a trial; `levels` are strengths or numbers of neighbours."""

    classifier: str
    look: Look
    preprocessing: Preprocessing
    crop_px: int | None
    scaling: Scaling
    metric: Metric
    levels: tuple[float, ...] = ()

    @property
    def level_name(self) -> str | None:
        """Returns the field that the levels are of, if any."""
        return {"logistic": "strengths", "svm": "strengths", "knn": "neighbours"}.get(self.classifier)


@dataclass(frozen=True)
class Read:
    """What became of such a trial; accuracies are None where there were no such images.

    `by_level` are [levels] arrays: the levels, the accuracy and loss on validation, and of fitted classifiers the
    iterations and what remained of the gradient. `level` is the one chosen.
    """

    val_accuracy: float | None
    test_accuracy: float | None
    val_mean_per_class: float | None
    test_mean_per_class: float | None
    test_predictions: np.ndarray
    level: float | None
    by_level: dict[str, np.ndarray]


def make_readout(
    model: Network,
    training: Training,
    preprocessing: Preprocessing,
    num_images: tuple[int, int, int],
    max_bytes: float,
) -> Readout:
    """Returns the classifier of a trial, resolved for a network and its images to train, select and test on.

    Raises a `UserError` where there is no such tap, where its pooling needs a map and it has none, where features of
    the images would take more than `max_bytes`, or where there are several levels and no images to choose on.
    """
    look = _make_look(model, training, preprocessing.size_px)
    size = num_features(model, look, preprocessing.size_px)
    num_train, num_val, _ = num_images
    num_bytes = 4 * size * sum(num_images)
    if num_bytes > max_bytes:
        raise UserError(
            f"training.classifier.pooling {training.classifier.pooling!r} of {look.unit!r} makes {size:,} features "
            f"an image, {num_bytes / 1e9:.1f} GB of all; name a tap with fewer channels, or raise "
            "'execution.feature_cache_bytes'."
        )
    levels: tuple[float, ...] = training.classifier.strengths if training.classifier.kind in ("logistic", "svm") else ()
    if training.classifier.kind == "knn":
        levels = tuple(k for k in training.classifier.neighbours if k <= num_train)
        if not levels:
            raise UserError(
                f"config field 'training.classifier.neighbours' is {list(training.classifier.neighbours)}, but there "
                f"are {num_train} images to train on; give a number that is no larger."
            )
    readout = Readout(
        training.classifier.kind,
        look,
        preprocessing,
        training.augmentation.crop.size_px,
        training.classifier.scaling,
        training.classifier.metric,
        levels,
    )
    if len(levels) > 1 and not num_val:
        raise UserError(
            f"config field 'training.classifier.{readout.level_name}' has {len(levels)} values, but there are no "
            "images to choose on; give 'target.val_per_class' or 'target.val_fraction', or a single value."
        )
    return readout


def _make_look(model: Network, training: Training, size_px: int) -> Look:
    body = model.units[: model.units.index(model.head)]
    stages = {tap.name: tap.unit for tap in model.taps}

    def unit_at(field: str) -> str:
        name = getattr(training.classifier, field)
        unit = stages.get(name, name)
        if unit not in body:
            raise UserError(
                f"config field 'training.classifier.{field}' is {name!r}, which {model.architecture} does not have "
                "below its "
                f"head{did_you_mean(name, [*stages, *body])}; it has {', '.join(dict.fromkeys([*stages, *body]))}."
            )
        return unit

    unit = body[-1] if training.classifier.tap is None else unit_at("tap")
    if training.classifier.pooling in NEEDS_MAP:
        _check_map(model, training, unit, size_px)
    if training.classifier.pooling != "cross_layer":
        return Look(unit, training.classifier.pooling)
    if training.classifier.cross_tap is None and unit == body[0]:
        raise UserError(
            f"training.classifier.pooling is 'cross_layer', but there is no unit below {unit!r}; name another tap."
        )
    below = body[body.index(unit) - 1] if training.classifier.cross_tap is None else unit_at("cross_tap")
    _check_map(model, training, below, size_px)
    if body.index(below) >= body.index(unit):
        raise UserError(f"training.classifier.cross_tap {below!r} is not below training.classifier.tap {unit!r}.")
    return Look(unit, training.classifier.pooling, below)


def _check_map(model: Network, training: Training, unit: str, size_px: int) -> None:
    shape = output_shape(model, unit, size_px)
    if len(shape) != 3:
        raise UserError(
            f"training.classifier.pooling {training.classifier.pooling!r} is of a map, but what leaves {unit!r} is "
            f"none; give 'training.classifier.tap', such as {model.taps[-1].name!r}."
        )


def make_prefix(
    model: Network,
    readout: Readout,
    looks: tuple[Look, ...],
    variables: Mapping[str, Mapping[str, Any]],
    images: Pixels,
    fingerprint: str,
) -> Prefix:
    """Returns the units before a set of images that `looks`, of which one is the readout's, are of.

    Args:
      variables: flat `params` and `batch_stats` of the network as it starts.
      images: [n, h, w, 3] uint8; `fingerprint` identifies them.
    """
    last = max((unit for look in looks for unit in look.units), key=model.units.index)
    changes, no_key = Changes(crop_px=readout.crop_px), jax.random.key_data(jax.random.key(0))
    return Prefix(model, readout.preprocessing, last, variables, images, fingerprint, changes, no_key, looks=looks)


def read_out(
    readout: Readout,
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    class_weights: np.ndarray,
) -> Read:
    """Returns what became of a classifier of features.

    Args:
      features: [n, d], labels: [n]; train, val, test: rows of them.
      class_weights: [classes] or a scalar, of the loss.

    Raises a `FloatingPointError` where a feature is no finite number.
    """
    if not np.isfinite(features).all():
        raise FloatingPointError("the features hold NaN or infinity; the network overflows on these images")
    parts = [features[part] for part in (train, val, test)]
    shift, scale = linear.make_scaling(readout.scaling, parts[0])
    parts = [linear.rescale(readout.scaling, part, shift, scale) for part in parts]
    classifier = _make_classifier(readout, parts[0], labels[train], num_classes, class_weights)
    by_level, best = dict(classifier.by_level), 0
    if len(val):
        on_val = classifier.predict(parts[1], slice(None))
        accuracy = np.array([np.mean(said == labels[val]) for said in on_val])
        loss = classifier.losses(parts[1], labels[val])
        by_level |= {"val_accuracy_by_level": accuracy, "val_loss_by_level": loss}
        best = int(np.lexsort((loss, -accuracy))[0])  # of equals the one with the least loss, then the first
    (on_test,) = classifier.predict(parts[2], slice(best, best + 1))
    return Read(
        val_accuracy=float(accuracy[best]) if len(val) else None,
        test_accuracy=float(np.mean(on_test == labels[test])) if len(test) else None,
        val_mean_per_class=mean_per_class(labels[val], on_val[best]) if len(val) else None,
        test_mean_per_class=mean_per_class(labels[test], on_test) if len(test) else None,
        test_predictions=on_test,
        level=float(readout.levels[best]) if readout.levels else None,
        by_level=by_level,
    )


class _Classifier(NamedTuple):
    """Functions of features, and arrays [levels] about the fit.

    `predict`: (features, which levels) -> classes [levels, n] int32. `losses`: (features, labels) -> [levels], 0 for
    neighbours and means.
    """

    predict: Callable[[np.ndarray, slice], np.ndarray]
    losses: Callable[[np.ndarray, np.ndarray], np.ndarray]
    by_level: dict[str, np.ndarray]


def _make_classifier(
    readout: Readout, features: np.ndarray, labels: np.ndarray, num_classes: int, class_weights: np.ndarray
) -> _Classifier:
    known = features, labels, num_classes
    if readout.classifier == "class_mean":
        return _Classifier(
            lambda seen, which: linear.predict_by_means(*known, seen, readout.metric)[None],
            lambda seen, labels: np.zeros(1),
            {},
        )
    if readout.classifier == "knn":
        levels = [int(k) for k in readout.levels]
        return _Classifier(
            lambda seen, which: linear.predict_by_neighbours(*known, seen, levels[which], readout.metric),
            lambda seen, labels: np.zeros(len(levels)),
            {"levels": np.array(levels)},
        )
    weights = np.broadcast_to(class_weights, (num_classes,))[labels]
    axes = linear.span(features) if features.shape[1] > len(features) else None

    def placed(seen: np.ndarray) -> np.ndarray:
        return seen if axes is None else seen @ axes

    loss: linear.Loss = "svm" if readout.classifier == "svm" else "logistic"
    fitted = linear.fit(loss, placed(features), labels, num_classes, readout.levels, weights)

    def predict(seen: np.ndarray, which: slice) -> np.ndarray:
        chosen = linear.Fitted(*(array[which] for array in fitted))
        return chosen.scores(placed(seen)).argmax(-1).astype(np.int32)

    def losses(seen: np.ndarray, labels: np.ndarray) -> np.ndarray:
        scores = fitted.scores(placed(seen))
        return np.array([np.mean(linear.losses(loss, jnp.asarray(each), jnp.asarray(labels))) for each in scores])

    about = {"levels": np.array(readout.levels), "iterations": fitted.num_iterations, "remaining": fitted.remaining}
    return _Classifier(predict, losses, about)
