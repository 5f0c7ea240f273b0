"""The record of `finetune`: the facts that the report, the model card and the summary show."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxft.config import as_config_file, to_dict
from jaxft.core.text import percent, some_of
from jaxft.recipes.finetune.candidates import BATCH_SIZE, RECIPE
from jaxft.recipes.finetune.selection import finite
from jaxft.recipes.finetune.task import Task
from jaxft.recipes.run_record import run_record
from jaxft.store.records import Store

if TYPE_CHECKING:
    import numpy as np

    from jaxft.data import ImageSet
    from jaxft.study.planned import Plan

MAX_NAMED = 5  # classes in a warning
FEW_IMAGES = 50  # with fewer, a warning gives the weight of one image
SUBSET_TEXTS = {"test": "the test split of the data", "val": "the validation split of the data"}


@dataclass(frozen=True, eq=False)
class Outcome:
    """The two studies of a task after their runs, and the selected candidate.

    Attributes:
      task: the task.
      selection: the plan of the study that trained the candidates.
      final: the plan of the study that trained the selected candidate on all training images.
      store: the store of the final study.
      candidates: a record for each candidate.
      selected: the name of the selected candidate.
    """

    task: Task
    selection: "Plan"
    final: "Plan"
    store: Store
    candidates: Sequence[Mapping[str, Any]]
    selected: str

    def final_records(self) -> list[dict[str, Any]]:
        """Returns the records of the final trials, in the order of seeds."""
        return [self.store.read("trials", trial.digest) or {} for trial in self.final.trials]


def make_record(outcome: Outcome, start_to_end_seconds: float) -> dict[str, Any]:
    """Returns the record, without the names of the delivered files and their predictions of the test images.

    Raises:
      FloatingPointError: a final trial diverged.
    """
    task, first, records = outcome.task, outcome.final.trials[0], outcome.final_records()
    for trial, record in zip(outcome.final.trials, records, strict=True):
        if record["status"] == "diverged":
            raise FloatingPointError(f"training on all images diverged with seed {trial.trial.seed}")
    run = run_record(as_config_file(outcome.final.study))
    return {
        "model": task.model.architecture,
        "weights": {"file": task.manifest.file, "sha256": task.manifest.sha256, "origin": task.manifest.origin},
        "data": data_facts(outcome),
        "candidates": list(outcome.candidates),
        "selected": outcome.selected,
        "recipe": {**RECIPE, **to_dict(dict(task.candidates[outcome.selected]))},
        "seeds": [trial.trial.seed for trial in outcome.final.trials],
        "delivered_seed": first.trial.seed,
        "layout": task.manifest.layout,
        "preprocessing": dataclasses.asdict(first.program.phases[-1].preprocessing),
        "test": accuracy_facts([record["test_accuracy"] for record in records]),
        "refit_curves": final_curves(outcome),
        "warnings": [*outcome.final.warnings, *warnings_of_few_images(outcome)],
        "versions": run["versions"],
        "device": run["device"],
        "seconds": seconds_spent(outcome.candidates, records, start_to_end_seconds),
    }


def data_facts(outcome: Outcome) -> dict[str, Any]:
    """Returns the source of the images, and the number of images in each split and class."""
    task, selection, final = outcome.task, outcome.selection.trials[0].split, outcome.final.trials[0].split
    tested = set(task.images.subsets[final.test])
    has_subset = len(tested) == 1 and tested <= set(SUBSET_TEXTS)
    return {
        "path": task.data,
        "class_names": list(task.images.class_names),
        "train": len(selection.train),
        "val": len(selection.val),
        "folds": task.folds,
        "test": len(final.test),
        "size_px": task.size_px,
        "test_from": SUBSET_TEXTS[tested.pop()] if has_subset else "a held-out fifth of each class",
        "train_per_class": class_counts(task.images, final.train),
        "test_per_class": class_counts(task.images, final.test),
        "split": final.digest,
    }


def accuracy_facts(accuracy: Sequence[float]) -> dict[str, Any]:
    """Returns the test accuracy of each seed, the mean, and the half width of the 95% interval (None for one seed)."""
    from jaxft.analysis.statistics import mean_interval

    interval = mean_interval(accuracy)
    half_width = None if math.isnan(interval.half_width) else interval.half_width
    return {"accuracy": list(accuracy), "mean": interval.mean, "half_width": half_width}


def final_curves(outcome: Outcome) -> list[dict[str, Any]]:
    """Returns the training curves of each final trial."""
    all_curves = []
    for trial in outcome.final.trials:
        arrays = outcome.store.arrays("trials", trial.digest)
        curves = {curve: finite(arrays[curve]) for curve in ("epoch", "train_loss", "train_accuracy")}
        all_curves.append({"seed": trial.trial.seed, **curves})
    return all_curves


def warnings_of_few_images(outcome: Outcome) -> list[str]:
    """Returns warnings about classes without test images, small batches, and few validation or test images."""
    task, val, test = outcome.task, outcome.selection.trials[0].split.val, outcome.final.trials[0].split.test
    warnings = []
    counts = zip(task.images.class_names, class_counts(task.images, test), strict=True)
    untested = [name for name, count in counts if not count]
    if untested:
        num_classes = len(task.images.class_names)
        warnings.append(
            f"{len(untested)} of {num_classes} classes have no test images: {some_of(untested, MAX_NAMED)}."
        )
    size = task.candidates[outcome.selected]["batches.size"]
    if size < BATCH_SIZE:
        warnings.append(
            f"the batch size is {size} instead of {BATCH_SIZE}, because there are only {size} training images."
        )
    for subset, number in (("validation", task.folds * len(val)), ("test", len(test))):
        if number < FEW_IMAGES:
            warnings.append(
                f"there are only {number} {subset} images: one image changes the {subset} accuracy by "
                f"{percent(1 / number)} points."
            )
    return warnings


def seconds_spent(
    candidates: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]], start_to_end: float
) -> dict[str, float]:
    """Returns the seconds of the selection, of the final runs, and in total.

    The first two are sums over trials, and the total is at least their sum, because a call that resumes ran only some
    of the trials.

    Args:
      candidates: the records of the candidates.
      records: the records of the final trials.
      start_to_end: the seconds of this call.
    """
    selection = sum(candidate["seconds"] for candidate in candidates)
    final = sum(record["seconds"] for record in records)
    total = max(start_to_end, selection + final)
    return {"selection": round(selection, 1), "refit": round(final, 1), "total": round(total, 1)}


def class_counts(images: "ImageSet", rows: "np.ndarray") -> list[int]:
    """Returns the number of images of each class among some rows.

    Args:
      images: the images, with their labels.
      rows: [rows] int, indices of images.
    """
    import numpy as np

    return np.bincount(images.labels[rows], minlength=len(images.class_names)).tolist()
