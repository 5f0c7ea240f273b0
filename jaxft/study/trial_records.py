"""Records and arrays of finished trials, for the store."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxft import config as cfg
from jaxft.core import events
from jaxft.core.json_values import finite_or_none
from jaxft.core.metrics import field_names
from jaxft.features.feature_classifier import FeatureClassifierResult
from jaxft.study.chunk.lanes import Outcome, curve_names
from jaxft.study.executors import Executor, Sequential
from jaxft.study.planned import PlannedTrial


def describe_trial(
    planned: PlannedTrial, outcome: Outcome, changes: Mapping[str, Any], executor: Executor
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays, record) of a trained trial for the store.

    Args:
      planned: the trial.
      outcome: its results.
      changes: {'layer', 'leaf' or 'filter': {name: {measure: value}}}, the change of its parameters; empty to record
        none.
      executor: the executor that ran it.
    """
    arrays = {name: np.asarray(values) for name, values in outcome.curves.items()}
    arrays |= {"test_rows": planned.split.test, "test_predictions": outcome.test_predictions}
    for level in ("leaf", "filter"):
        for name, change in changes.get(level, {}).items():
            arrays |= {f"{level}/{measure}/{name}": np.asarray(value) for measure, value in change.items()}
    status = "diverged" if outcome.diverged else "done"
    record = _record(planned, status, outcome, outcome.seconds, executor)
    record["selected_epoch"] = outcome.selected_epoch
    if changes:
        record["changes"] = {
            layer: {measure: finite_or_none(value) for measure, value in changes["layer"][layer].items()}
            for layer in planned.layer_names
        }
    return arrays, record


def describe_classifier(
    planned: PlannedTrial, result: FeatureClassifierResult, seconds: float
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays, record) of a classifier of features for the store; it has no epochs."""
    assert planned.feature_classifier is not None
    arrays = dict.fromkeys(("epoch", *curve_names()), np.zeros(0)) | result.by_level
    arrays |= {"test_rows": planned.split.test, "test_predictions": result.test_predictions}
    record = _record(planned, "done", result, seconds, Sequential())
    record |= {"selected_level": result.level, "level_of": planned.feature_classifier.level_name}
    return arrays, record | {"relative_change": 0.0}  # the network is frozen


def _record(
    planned: PlannedTrial, status: str, outcome: Outcome | FeatureClassifierResult, seconds: float, executor: Executor
) -> dict[str, Any]:
    """Returns the fields that the records of all finished trials have."""
    split = planned.split
    return {
        "schema": cfg.SCHEMA_VERSION,
        "status": status,
        "seed": planned.trial.seed,
        **outcome.metrics,
        "selected_epoch": None,
        "seconds": round(seconds, 3),
        "executor": executor.name,
        "width": executor.width,
        "source": planned.source.digest if planned.starts_from_source else "",
        "split": split.digest,
        "manifest": planned.sampled.manifest["digest"],
        "images": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "stored_weights": False,
        "stored_snapshots": [],
        "identity": planned.identity,
        "trial": cfg.to_dict(planned.trial),
    }


def trial_finished(planned: PlannedTrial, record: Mapping[str, Any]) -> events.TrialFinished:
    """Returns the event of a stored trial."""
    metrics = {name: record[name] for name in field_names()}
    return events.TrialFinished(planned.digest, record["status"], record["seconds"], metrics)
