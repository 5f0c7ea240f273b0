"""Change of the parameters of trials from their initial values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.analysis import parameters
from jaxft.core import paths
from jaxft.core.json_values import finite_or_none
from jaxft.models import Network
from jaxft.study.chunk.lanes import Lane, Outcome, stack
from jaxft.study.jobs import Job


def parameter_changes(
    job: Job, lanes: Sequence[Lane], outcomes: Sequence[Outcome]
) -> dict[str, dict[str, parameters.Change]]:
    """Returns {level: {name: measures of shape [trials, ...]}}, with the levels 'layer', 'leaf' and 'filter'.

    Layers that no phase trains are equal in all trials, so they are measured once.
    """
    import jax

    width = len(lanes)
    trained = {paths.layer_of(name) for phase in job.trials[0].program.phases for name in phase.trainable}
    by_level: dict[str, dict[str, parameters.Change]] = {"layer": {}, "leaf": {}, "filter": {}}
    for count, are_trained in ((width, {True}), (1, {False})) if width > 1 else ((1, {True, False}),):
        names = [name for name in outcomes[0].params if (paths.layer_of(name) in trained) in are_trained]
        before = stack([{name: lane.params[name] for name in names} for lane in lanes[:count]])
        after = stack([{name: outcome.params[name] for name in names} for outcome in outcomes[:count]])
        for level, changes in jax.device_get(parameters.changes(before, after, own_starts=True)).items():
            by_level[level] |= jax.tree.map(lambda values: np.broadcast_to(values, (width, *values.shape[1:])), changes)
    return by_level


def backbone_change(before: Mapping[str, Any], after: Mapping[str, Any], model: Network) -> float | None:
    """Returns ||w - w0|| / ||w0|| over all backbone parameters w, given as arrays of any shape by name.

    It is None if the value is not finite.
    """
    names = [name for name in after if not model.in_head(name)]
    squared_change = sum(
        float(np.square(np.asarray(after[n], np.float64) - np.asarray(before[n], np.float64)).sum())
        for n in names
        if after[n] is not before[n]  # a frozen leaf is the same array
    )
    squared_norm = sum(float(np.square(np.asarray(before[n], np.float64)).sum()) for n in names)
    return finite_or_none(math.sqrt(squared_change / squared_norm))


def backbone_measures(before: Mapping[str, Any], after: Mapping[str, Any], model: Network) -> dict[str, dict[str, Any]]:
    """Returns {'backbone_change': {measure: value}} for the registered measures of the whole backbone.

    It is empty without such measures. The parameters are arrays of any shape by name.
    """
    names = [name for name in after if not model.in_head(name)]
    measured = parameters.whole_measures({n: before[n] for n in names}, {n: after[n] for n in names})
    return {"backbone_change": {name: finite_or_none(value) for name, value in measured.items()}} if measured else {}


def take_trial(tree: Any, i: int) -> Any:
    """Returns the arrays [...] of trial `i` from a tree of arrays [trials, ...]."""
    import jax

    return jax.tree.map(lambda leaf: leaf[i], tree)
