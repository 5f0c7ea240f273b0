"""Trajectories of weights during training: path length, straightness, and update-to-weight ratios."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.analysis.alignment import aligned
from jaxft.analysis.parameters import leaf_sums
from jaxft.core.paths import layer_of

TOTAL = "total"


class Trajectory(NamedTuple):
    """A trajectory of weights w_0, ..., w_T. With R runs, every array has a last axis [R].

    Attributes:
      names: the names of the layers, and 'total' for all leaves together.
      step_lengths: [T, names], ||w_(t+1) - w_t||.
      update_ratios: [T, names], ||w_(t+1) - w_t|| / ||w_t||; inf if only w_t is zero, nan if both are zero.
      path_length: [names], the sum of the step lengths.
      straightness: [names], ||w_T - w_0|| / path length, between 0 and 1; nan if the weights did not move.
    """

    names: tuple[str, ...]
    step_lengths: np.ndarray
    update_ratios: np.ndarray
    path_length: np.ndarray
    straightness: np.ndarray


def trajectory(snapshots: Iterable[Any], has_runs: bool = False) -> Trajectory:
    """Returns the trajectory through snapshots of the weights, for each layer and in total.

    Only the first, the previous and the current snapshot are in memory, so `snapshots` can be a generator that loads
    one snapshot at a time.

    Args:
      snapshots: trees of arrays with equal leaves and shapes, at least two, in the order of training.
      has_runs: whether every leaf has a leading axis of R runs.

    Raises:
      ValueError: there are fewer than two snapshots, or their leaves or shapes differ.
    """
    first = previous = last = None
    steps = []
    for snapshot in snapshots:
        if previous is None:
            first = previous = snapshot
            continue
        steps.append(_squares(previous, snapshot, has_runs))
        previous = last = snapshot
    if not steps:
        raise ValueError("a trajectory needs at least two snapshots.")
    names = tuple(steps[0])
    moved, before = (np.array([[step[name][i] for name in names] for step in steps]) for i in (0, 1))
    distance = np.array([pair[0] for pair in _squares(first, last, has_runs).values()])
    with np.errstate(divide="ignore", invalid="ignore"):
        path_length = moved.sum(0)
        return Trajectory(names, moved, moved / before, path_length, distance / path_length)


def _squares(before: Any, after: Any, has_runs: bool) -> Mapping[str, np.ndarray]:
    """Returns {layer: (||w - w0||, ||w0||)}, each float64 [] or [R], and the same for 'total'."""
    w0, w, _ = aligned(before, after, has_runs)
    layers: dict[str, list[Any]] = {}
    for name, leaf in w.items():
        terms = leaf_sums(w0[name], leaf)[1].terms
        layers.setdefault(layer_of(name), []).append(jnp.broadcast_to(terms, (len(terms), len(leaf)))[:2])
    squares = {layer: np.stack(leaves).astype(np.float64).sum(0) for layer, leaves in jax.device_get(layers).items()}
    squares[TOTAL] = functools.reduce(np.add, squares.values())
    return {layer: np.sqrt(square if has_runs else square[:, 0]) for layer, square in squares.items()}
