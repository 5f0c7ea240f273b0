"""Selection of the best candidate of `finetune` on validation images."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxft.recipes.finetune.task import Task
from jaxft.store.records import Store

if TYPE_CHECKING:
    from jaxft.study.planned import Plan

CURVES = ("epoch", "train_loss", "val_loss", "val_accuracy")


def read_candidates(task: Task, plan: "Plan", store: Store) -> list[dict[str, Any]]:
    """Returns a record for each candidate, with the mean validation accuracy and the mean curves over folds.

    A candidate with a failed trial has no record.

    Args:
      task: the task.
      plan: the plan of the selection study, which has run.
      store: the store of the selection study.
    """
    trials: dict[str, list[str]] = {name: [] for name in task.candidates}
    for trial in plan.trials:
        trials[task.name_of(trial.trial)].append(trial.digest)
    candidates = []
    for name, digests in trials.items():
        records = [record for record in (store.read("trials", digest) for digest in digests) if record is not None]
        if len(records) < len(digests):  # a trial failed; the study has reported it
            continue
        curves = mean_curves([store.arrays("trials", digest) for digest in digests])
        candidates.append(_candidate(name, task.candidates[name], records, curves))
    return candidates


def _candidate(
    name: str, fields: Mapping[str, Any], records: Sequence[Mapping[str, Any]], curves: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the record of a candidate.

    Args:
      name: the name of the candidate.
      fields: its fields of `training`.
      records: the records of its trials, one per fold.
      curves: the mean curves over folds.
    """
    import numpy as np

    diverged = any(record["status"] == "diverged" for record in records)
    return {
        "name": name,
        "trained": name.partition(" ")[0],
        "learning_rate": fields.get("optimizer.learning_rate"),
        "val_accuracy": None if diverged else float(np.mean([record["val_accuracy"] for record in records])),
        "diverged": diverged,
        "seconds": sum(record["seconds"] for record in records),
        "selected": False,
        "curves": curves,
    }


def mean_curves(arrays: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Returns the mean of each curve over trials, as a list with one value per evaluation."""
    import numpy as np

    return {curve: finite(np.mean([array[curve] for array in arrays], axis=0)) for curve in CURVES}


def best_candidate(candidates: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the best candidate by `rank`, without diverged candidates. If all diverged, returns None."""
    return max((candidate for candidate in candidates if not candidate["diverged"]), key=rank, default=None)


def rank(candidate: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the sort key of a candidate: the validation accuracy, then the negative final validation loss."""
    return candidate["val_accuracy"], -candidate["curves"]["val_loss"][-1]


def finite(values: Iterable[float]) -> list[float | None]:
    """Returns the values as a list, with None for NaN and infinity, which JSON cannot hold."""
    return [float(value) if math.isfinite(value) else None for value in values]
