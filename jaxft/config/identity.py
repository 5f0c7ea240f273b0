"""A trial's identity: every field of its config that can decide its result, and digests of the content it names.

A field that differs from its default is part of the identity unless `EXEMPTIONS` lists it, with the reason why it
cannot matter to that trial. So a field that is forgotten here costs a rerun, never a wrong result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxft.config import Execution, Trial, fields_of, to_dict


@dataclass(frozen=True)
class Exemption:
    """Fields, or groups of fields, that cannot matter to the trials of which `applies` is true, and why.

    Fields of `Execution` begin with `execution.`, all others are dotted names of fields of a `Trial`.
    """

    fields: tuple[str, ...]
    reason: str
    applies: Callable[[Trial], bool] = lambda trial: True

    def covers(self, name: str) -> bool:
        """Returns whether `name` is one of the fields, or lies in one of the groups."""
        return any(name == field or name.startswith(f"{field}.") for field in self.fields)


def _classifier_is_not(*kinds: str) -> Callable[[Trial], bool]:
    return lambda trial: trial.procedure.classifier not in kinds


def _procedure(*names: str) -> tuple[str, ...]:
    return tuple(f"procedure.{name}" for name in names)


def _trains_no_network(trial: Trial) -> bool:
    return trial.procedure.classifier != "network"


EXEMPTIONS = (
    # Content takes their place.
    Exemption(
        ("source.weights", "source.images", "source.procedure", "source.epoch", "streams.source"),
        "the digest of the source's weights covers them, and a random start reads no weights",
    ),
    Exemption(
        (
            *("target.data", "target.domain", "target.label", "target.unreadable", "target.union", "target.size_px"),
            *("target.classes", "target.num_classes", "target.class_choice", "target.similarity"),
            *("target.wordnet_depth", "target.synsets", "target.grey", "target.shuffle_px"),
        ),
        "the fingerprint of the images covers their pixels, classes and labels",
    ),
    Exemption(("target.manifest",), "the digest of the split covers it"),
    # Seeds.
    Exemption(("seed",), "the seeds of the streams take its place"),
    Exemption(
        ("streams.split",),
        "with a manifest nothing is drawn, and no blocks are shuffled",
        lambda trial: trial.target.manifest is not None and trial.target.shuffle_px is None,
    ),
    Exemption(
        ("streams.fold",),
        "without a validation fraction there are no folds",
        lambda trial: not trial.target.val_fraction,
    ),
    # The kind of trial.
    Exemption(("streams.order", "streams.augment"), "a classifier of features has no batches", _trains_no_network),
    Exemption(
        _procedure(
            *("copied", "head_init", "tune", "tuned_units", "lora_rank", "lora_alpha", "optimizer", "learning_rate"),
            *("body_learning_rate", "layer_rates", "layer_decay", "momentum", "nesterov", "beta2", "weight_decay"),
            *("label_smoothing", "epochs", "probe_epochs", "probe_optimizer", "probe_weight_decay"),
            *("probe_learning_rate", "batch_size", "schedule", "warmup_epochs", "decay_epochs", "decay_factor"),
            *("effective_learning_rate", "steps", "warmup_steps", "decay_steps", "unfreeze_epochs", "clip_norm"),
            *("accumulate", "sam_radius", "ema_decay", "batch_norm", "batch_norm_affine", "virtual_batch_size"),
            *("l2_sp", "l2_sp_rules", "l2_sp_head", "delta", "bss", "bss_count", "distillation"),
            *("distillation_temperature", "dropout", "stochastic_depth", "crop_padding_px", "crop_scale_min", "flip"),
            *("randaugment_ops", "randaugment_magnitude", "jitter_brightness", "jitter_contrast"),
            *("jitter_saturation", "jitter_hue", "erase_probability", "mixup_alpha", "cutmix_alpha", "sampling"),
            *("views", "select", "test_crops"),
        ),
        "a classifier of features trains no network",
        _trains_no_network,
    ),
    Exemption(
        _procedure("tap", "pooling", "cross_tap", "feature_scaling"),
        "only classifiers of features read them",
        lambda trial: trial.procedure.classifier == "network",
    ),
    Exemption(
        _procedure("cross_tap"),
        "only the pooling 'cross_layer' reads it",
        lambda trial: trial.procedure.pooling != "cross_layer",
    ),
    Exemption(
        _procedure("strengths"), "only 'logistic' and 'svm' have a penalty", _classifier_is_not("logistic", "svm")
    ),
    Exemption(_procedure("neighbours"), "only 'knn' has neighbors", _classifier_is_not("knn")),
    Exemption(
        _procedure("metric"), "only 'knn' and 'class_mean' measure distances", _classifier_is_not("knn", "class_mean")
    ),
    Exemption(
        _procedure("loss_weighting", "loss_beta"),
        "'knn' and 'class_mean' have no loss",
        _classifier_is_not("network", "logistic", "svm"),
    ),
    # Execution.
    Exemption(
        (
            *("execution.executor", "execution.width", "execution.workers", "execution.eval_batch_size"),
            *("execution.cpu_convolution", "execution.remat", "execution.deterministic"),
        ),
        "they change the order of the same sums, and so a result by rounding at most",
    ),
    Exemption(
        (
            *("execution.memory_bytes", "execution.device_data_bytes", "execution.feature_cache_bytes"),
            *("execution.feature_disk_bytes", "execution.checkpoint_seconds", "execution.keep_weights"),
        ),
        "they decide where arrays lie and which files are kept",
    ),
)


def exemption(name: str, trial: Trial) -> Exemption | None:
    """Returns the first exemption of the field `name` in `trial`; None if the field is part of the identity."""
    return next((each for each in EXEMPTIONS if each.covers(name) and each.applies(trial)), None)


def identity(trial: Trial, execution: Execution, content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides a trial's result, ready for JSON.

    Args:
      content: digests of what the fields only name: images, split, weights, and the preprocessing of the network.

    Returns:
      `fields`: the value of each field that is not exempt and differs from its default, by dotted name; seeds of
      streams are there whatever their value. `content`: as given.
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
