"""How far the parameters of trials moved from their start."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.analysis import parameters
from jaxft.core import paths
from jaxft.models import Network
from jaxft.study.chunk.lanes import Lane, Outcome, stack
from jaxft.study.jobs import Job


def parameter_changes(
    job: Job, lanes: Sequence[Lane], outcomes: Sequence[Outcome]
) -> dict[str, dict[str, parameters.Change]]:
    """Returns {'layer', 'leaf' or 'filter': {name: Change of [trials, ...]}}.

    Layers that are frozen throughout, which are the same in all trials, are measured once.
    """
    import jax

    width = len(lanes)
    trained = {paths.layer_of(name) for phase in job.trials[0].program.phases for name in phase.trainable}
    by_level: dict[str, dict[str, parameters.Change]] = {"layer": {}, "leaf": {}, "filter": {}}
    for count, are_trained in ((width, {True}), (1, {False})) if width > 1 else ((1, {True, False}),):
        names = [name for name in outcomes[0].params if (paths.layer_of(name) in trained) in are_trained]
        before = stack([{name: lane.params[name] for name in names} for lane in lanes[:count]])
        after = stack([{name: outcome.params[name] for name in names} for outcome in outcomes[:count]])
        for level, changes in jax.device_get(parameters.changes(before, after)).items():
            by_level[level] |= jax.tree.map(lambda of: np.broadcast_to(of, (width, *of.shape[1:])), changes)
    return by_level


def backbone_change(before: Mapping[str, Any], after: Mapping[str, Any], model: Network) -> float | None:
    """Returns ||w - w0|| / ||w0|| over all parameters below the head."""
    names = [name for name in after if not model.in_head(name)]
    moved = sum(
        float(np.square(np.asarray(after[n], np.float64) - np.asarray(before[n], np.float64)).sum())
        for n in names
        if after[n] is not before[n]  # frozen
    )
    start = sum(float(np.square(np.asarray(before[n], np.float64)).sum()) for n in names)
    return finite_or_none(math.sqrt(moved / start))


def backbone_measures(before: Mapping[str, Any], after: Mapping[str, Any], model: Network) -> dict[str, dict[str, Any]]:
    """Returns {'backbone_change': {measure: value}} for the measures registered for the whole body, if there are
    any."""
    names = [name for name in after if not model.in_head(name)]
    measured = parameters.whole_measures({n: before[n] for n in names}, {n: after[n] for n in names})
    return {"backbone_change": {name: finite_or_none(value) for name, value in measured.items()}} if measured else {}


def finite_or_none(value: Any) -> float | None:
    """Returns a float that JSON can hold: nothing for nan and infinity."""
    number = float(value)
    return number if math.isfinite(number) else None


def lane_of(tree: Any, i: int) -> Any:
    """Returns what a tree of arrays [trials, ...] has of trial `i`."""
    import jax

    return jax.tree.map(lambda leaf: leaf[i], tree)
