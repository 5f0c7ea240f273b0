"""Warnings about a plan: its weights, its images, its batches, and trials that cannot differ."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxft.config import get_at
from jaxft.core.digests import sha256_of
from jaxft.core.text import plural
from jaxft.data import ImageSet
from jaxft.study.planned import PlannedTrial
from jaxft.training.adapters import is_adapter
from jaxft.training.hparams import make_hparams
from jaxft.training.learning_rates import resolve_rates
from jaxft.training.phases import block_depths
from jaxft.weights import Manifest

# Sections that act only through the program, the learning rates and the numbers of the active regularizers.
RESOLVED = ("training.layers.", "training.regularization.")
OF_BATCHES = ("training.optimizer.", "training.schedule.", "training.batches.")  # L-BFGS has no batches


def warnings_of(
    trials: Sequence[PlannedTrial], manifests: Iterable[Manifest], factors: Sequence[str]
) -> tuple[str, ...]:
    """Returns the warnings about a plan, without duplicates.

    Args:
      trials: all trials of the study, with identical ones.
      manifests: the manifests of all weight files that the study reads.
      factors: the names of the factors of the study.
    """
    with_distinct_data: dict[Any, PlannedTrial] = {}  # one trial for each combination of images, split and source
    for trial in trials:
        key = trial.trial.target, trial.split.digest, trial.starts_from_source, trial.source.digest
        with_distinct_data.setdefault(key, trial)
    warnings = [note for manifest in manifests for note in manifest.notes]
    for trial in with_distinct_data.values():
        warnings += [*overlap(trial), *skipped_images(trial)]
    for trial in trials:
        warnings += large_batches(trial)
    return tuple(dict.fromkeys([*warnings, *same_results(trials, factors)]))


def overlap(trial: PlannedTrial) -> list[str]:
    """Returns a warning if test images of a trial are training images of the source network that jaxft trains."""
    source = trial.source.trained
    if source is None or not trial.starts_from_source:
        return []

    def contents(images: ImageSet, rows: np.ndarray) -> set[str]:
        return {sha256_of(images.images[row]) for row in rows}

    overlapping = contents(trial.images, trial.split.test) & contents(source.images, source.split.train)
    if not overlapping:
        return []
    return [
        f"{len(overlapping)} of {len(trial.split.test)} test images of {trial.trial.target.data!r} are also training "
        "images of the source, so the test accuracy of pretrained trials is too high."
    ]


def skipped_images(trial: PlannedTrial) -> list[str]:
    """Returns warnings if images, classes or folders of a trial, or of the source that jaxft trains, are left out."""
    warnings: list[str] = []
    for planned in (trial, trial.source.trained if trial.starts_from_source else None):
        if planned is not None:
            warnings += planned.images.notes
        if planned is not None and planned.images.skipped:
            skipped, data = planned.images.skipped, planned.trial.target.data
            name, reason = skipped[0]
            warnings.append(
                f"skipped {plural(len(skipped), 'image file')} of {data!r} that cannot be used, such as '{name}' "
                f"({reason})."
            )
    return warnings


def large_batches(trial: PlannedTrial) -> list[str]:
    """Returns a warning if a batch of a trial has more images than there are training images."""
    size, num_train = trial.trial.training.batches.size, len(trial.split.train)
    if size <= num_train or all(phase.is_full_batch for phase in trial.program.phases):
        return []
    return [
        f"'training.batches.size' is {size}, but {trial.trial.target.data!r} has only "
        f"{plural(num_train, 'training image')}, so a batch contains images more than once; lower the size."
    ]


def same_results(trials: Sequence[PlannedTrial], factors: Sequence[str]) -> list[str]:
    """Returns a warning for trials that are identical, and one for trials that differ only in fields without effect.

    Args:
      trials: all trials of the study, with identical ones.
      factors: the names of the factors of the study.
    """
    warnings = []
    identical, names = _repeated(trials, lambda trial: trial.digest, factors)
    if identical:
        warnings.append(
            f"{plural(identical, 'trial')} of {len(trials)} equal other trials and do not run again, because levels of "
            f"{', '.join(names)} do not act on them."
        )
    distinct = list({trial.digest: trial for trial in trials}.values())
    equivalent, names = _repeated(distinct, computation, factors)
    if equivalent:
        warnings.append(
            f"{plural(equivalent, 'trial')} of {len(distinct)} cannot differ from other trials, because levels of "
            f"{', '.join(names)} have no effect on them, for example because layers are frozen; remove such levels."
        )
    return warnings


def _repeated(
    trials: Sequence[PlannedTrial], key: Callable[[PlannedTrial], str], factors: Sequence[str]
) -> tuple[int, list[str]]:
    """Returns the number of trials whose key an earlier trial has, and the factors whose levels differ between them."""
    first: dict[str, PlannedTrial] = {}
    count, names = 0, set()
    for trial in trials:
        earlier = first.setdefault(key(trial), trial)
        differing = {name for name in factors if get_at(trial.trial, name) != get_at(earlier.trial, name)}
        count += bool(differing)
        names |= differing
    return count, [name for name in factors if name in names]


def computation(trial: PlannedTrial) -> str:
    """Returns a text that is equal for trials that compute the same, although fields without effect differ."""
    phases, training = trial.program.phases, trial.trial.training
    if not phases:
        return trial.digest
    hparams = make_hparams(training, trial.layers)
    active = {name for phase in phases for name, _ in phase.regularizers.statics}
    numbers: dict[str, Any] = {name: hparams.regularizers[name] for name in active if name in hparams.regularizers}
    numbers["probe"] = hparams.probe_weight_decay
    if any(map(is_adapter, trial.layers)):
        numbers["lora"] = hparams.lora_scale, training.layers.lora_rank
    resolved: tuple[str, ...] = RESOLVED
    if all(phase.is_full_batch for phase in phases):
        resolved += OF_BATCHES
    else:
        numbers["rates"] = resolve_rates(training, trial.layers, block_depths(trial.model, trial.layers))
    fields = {name: value for name, value in trial.identity["fields"].items() if not name.startswith(resolved)}
    return repr((trial.program, sorted(fields.items()), trial.identity["content"], sorted(numbers.items())))
