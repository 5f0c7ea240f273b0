"""The identity of a trial: the fields that can affect its result, and digests of the content that they name.

A field with a non-default value is part of the identity, unless `EXEMPTIONS` lists the field and the reason why it
cannot affect this trial. So a missing exemption can cost a rerun, never a wrong result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxft.config import Execution, Trial, fields_of, to_dict


@dataclass(frozen=True)
class Exemption:
    """Fields that cannot affect the result of some trials, and the reason.

    Attributes:
      fields: dotted names of fields or sections of a `Trial`, or of `Execution` with the prefix 'execution.'.
      reason: why the fields cannot affect the result.
      applies: returns whether the exemption applies to a trial.
    """

    fields: tuple[str, ...]
    reason: str
    applies: Callable[[Trial], bool] = lambda trial: True

    def covers(self, name: str) -> bool:
        """Returns whether `name` is one of the fields, or a field of one of the sections."""
        return any(name == field or name.startswith(f"{field}.") for field in self.fields)


def _classifier_is_not(*kinds: str) -> Callable[[Trial], bool]:
    return lambda trial: trial.training.classifier.kind not in kinds


def _training(*names: str) -> tuple[str, ...]:
    return tuple(f"training.{name}" for name in names)


def _trains_no_network(trial: Trial) -> bool:
    return trial.training.classifier.kind != "network"


EXEMPTIONS = (
    # Covered by digests of content.
    Exemption(
        ("source.weights", "source.state_dict", "source.images", "source.training", "source.epoch", "streams.source"),
        "the digest of the source weights covers these fields, and a random start reads no source weights",
    ),
    Exemption(
        (
            *("target.data", "target.domain", "target.label", "target.unreadable", "target.union", "target.size_px"),
            *("target.classes", "target.num_classes", "target.class_choice", "target.similarity"),
            *("target.wordnet_depth", "target.synsets", "target.gray", "target.shuffle_px"),
        ),
        "the fingerprint of the images covers their pixels, classes and labels",
    ),
    Exemption(("source.preprocessing",), "the identity contains the resolved preprocessing"),
    Exemption(("target.manifest",), "the digest of the split covers the manifest"),
    # Seeds.
    Exemption(("seed",), "the identity contains the seed of each random stream instead"),
    Exemption(
        ("streams.split",),
        "a manifest replaces all draws of the split, and no pixel blocks are shuffled",
        lambda trial: trial.target.manifest is not None and trial.target.shuffle_px is None,
    ),
    Exemption(
        ("streams.fold",),
        "folds exist only with a validation fraction",
        lambda trial: not trial.target.val_fraction,
    ),
    # The kind of trial.
    Exemption(("streams.order", "streams.augment"), "a classifier of features has no batches", _trains_no_network),
    Exemption(
        (
            *_training("layers", "optimizer", "schedule", "batches", "linear_probe", "batch_norm", "regularization"),
            *_training(
                "initialization.transferred", "initialization.head", "loss.name", "loss.label_smoothing", "selection"
            ),
            *_training("augmentation.crop.padding_px", "augmentation.crop.scale_min", "augmentation.flip"),
            *_training("augmentation.randaugment", "augmentation.color_jitter", "augmentation.erasing"),
            *_training("augmentation.mixup", "augmentation.cutmix", "augmentation.views"),
        ),
        "a classifier of features trains no network",
        _trains_no_network,
    ),
    Exemption(
        _training("classifier.tap", "classifier.pooling", "classifier.cross_tap", "classifier.scaling"),
        "only classifiers of features use these fields",
        lambda trial: trial.training.classifier.kind == "network",
    ),
    Exemption(
        _training("classifier.cross_tap"),
        "only the pooling 'cross_layer' uses this field",
        lambda trial: trial.training.classifier.pooling != "cross_layer",
    ),
    Exemption(
        _training("classifier.penalties"),
        "only 'logistic' and 'svm' have a penalty",
        _classifier_is_not("logistic", "svm"),
    ),
    Exemption(_training("classifier.num_neighbors"), "only 'knn' has neighbors", _classifier_is_not("knn")),
    Exemption(
        _training("classifier.metric"),
        "only 'knn' and 'class_mean' measure distances",
        _classifier_is_not("knn", "class_mean"),
    ),
    Exemption(
        _training("loss.class_weights", "loss.beta"),
        "'knn' and 'class_mean' have no loss",
        _classifier_is_not("network", "logistic", "svm"),
    ),
    # Execution.
    Exemption(
        (
            *("execution.executor", "execution.width", "execution.workers", "execution.eval_batch_size"),
            *("execution.cpu_convolution", "execution.remat", "execution.deterministic"),
        ),
        "these fields change the order of summation, and so the result only up to rounding",
    ),
    Exemption(
        (
            *("execution.memory_bytes", "execution.device_data_bytes", "execution.feature_cache_bytes"),
            *("execution.feature_disk_bytes", "execution.checkpoint_seconds", "execution.keep_weights"),
            *("execution.trackers", "execution.snapshot_steps"),
        ),
        "these fields change only where arrays are stored and which files are kept",
    ),
)


def exemption(name: str, trial: Trial) -> Exemption | None:
    """Returns the first exemption of the field `name` in `trial`; None if the field is part of the identity."""
    return next((each for each in EXEMPTIONS if each.covers(name) and each.applies(trial)), None)


def identity(trial: Trial, execution: Execution, content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the identity of a trial as a JSON value: all values that can affect its result.

    Args:
      trial: the trial.
      execution: the section `execution` of its study.
      content: digests of the images, the split and the source weights, the preprocessing, and the versions of plug-ins.

    Returns:
      `fields`: the values of all fields that are not exempt and differ from their defaults, by dotted name, and the
      seeds of all random streams that are not exempt. `content`: the argument.
    """
    defaults = {name: value for name, value, _ in fields_of(Trial())}
    defaults |= {name: value for name, value, _ in fields_of(Execution(), "execution")}
    values = {name: value for name, value, _ in fields_of(trial)}
    values |= {name: value for name, value, _ in fields_of(execution, "execution")}
    fields = {
        name: to_dict(value)
        for name, value in values.items()
        if not name.startswith("streams.") and (name not in defaults or value != defaults[name])
    }
    fields |= {name: trial.stream_seed(name.removeprefix("streams.")) for name in values if name.startswith("streams.")}
    kept = {name: value for name, value in fields.items() if exemption(name, trial) is None}
    return {"fields": kept, "content": dict(content)}
