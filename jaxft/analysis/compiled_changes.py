"""Parameter change of many values on a CPU, by compiled code (`jaxft.ops.change_sums`)."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.analysis.measures import ABS_CHANGE, MEASURES, extra_maxima, extra_terms
from jaxft.analysis.sums import Change, ChangesByLevel, Sums, change_of, is_on_one_cpu
from jaxft.core.paths import layer_of
from jaxft.ops.change_sums import Leaf, Unavailable, change_sums

MIN_VALUES = 1 << 22  # XLA computes fewer values in milliseconds; then a compiler is not worth its seconds


def compiled_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], own_starts: bool, filter_axis: int
) -> ChangesByLevel | None:
    """Returns the result of `parameters.changes` with NumPy arrays, or None if XLA must compute it.

    XLA computes other types than float32, arrays on other devices or on several, measures with sums or
    maxima of plug-ins, and small trees. It also computes if no code can be compiled.

    Args:
      before: leaves by name: w0, [...], or [R, ...] with `own_starts`.
      after: the same leaves: w, [R, ...], or a list of R arrays [...].
      own_starts: whether each run has its own start.
      filter_axis: the axis of the filters, without the axis of runs.
    """
    if extra_terms() or extra_maxima() != ABS_CHANGE:
        return None
    runs = itertools.chain.from_iterable(leaf if isinstance(leaf, list) else [leaf] for leaf in after.values())
    arrays = [*before.values(), *runs]
    if not all(map(_is_float32, arrays)) or not is_on_one_cpu(arrays):
        return None
    w0 = {name: np.asarray(leaf) if own_starts else np.asarray(leaf)[None] for name, leaf in before.items()}
    leaves = [
        Leaf(
            w0[name],
            [np.asarray(run) for run in leaf] if isinstance(leaf, list) else np.asarray(leaf),
            filter_axis if w0[name].ndim > 2 else None,  # with the axis of runs
        )
        for name, leaf in after.items()
    ]
    if sum(math.prod(leaf.shape) * len(leaf.after) for leaf in leaves) < MIN_VALUES:
        return None
    try:
        sums = change_sums(leaves)
    except Unavailable:
        return None
    return _by_level(sums, leaves, list(after))


def _is_float32(array: Any) -> bool:
    return isinstance(array, jax.Array | np.ndarray | np.generic) and array.dtype == np.float32


def _by_level(sums: np.ndarray, leaves: Sequence[Leaf], names: Sequence[str]) -> ChangesByLevel:
    """Returns the changes of filters, leaves and layers from the sums of all filters, [6, R, filters]."""
    num_filters = np.array([leaf.num_filters for leaf in leaves])
    offsets = np.cumsum([0, *num_filters])
    of_leaves = _reduced(sums, [slice(*ends) for ends in itertools.pairwise(offsets)])
    layers: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        layers.setdefault(layer_of(name), []).append(i)
    of_layers = _reduced(of_leaves, list(layers.values()))
    leaf_sizes = np.array([math.prod(leaf.shape) for leaf in leaves])
    filter_sizes = np.repeat(leaf_sizes / np.maximum(num_filters, 1), num_filters)
    sizes = np.concatenate([filter_sizes, leaf_sizes, [leaf_sizes[layer].sum() for layer in layers.values()]])

    with np.errstate(over="ignore"):  # sums above the range of float32 are inf, as those of XLA
        columns = np.concatenate([sums, of_leaves, of_layers], axis=-1).astype(np.float32)
    parts = map(jnp.asarray, (columns[:-1], columns[-1:], sizes[None].astype(np.float32)))
    whole = change_of(Sums(*parts), tuple(MEASURES))
    values = [(measure, np.asarray(value)) for measure, value in whole.items()]

    def change(column: Any) -> Change:
        return Change((measure, value[:, column]) for measure, value in values)

    first_leaf, first_layer = len(sums[0, 0]), len(sums[0, 0]) + len(leaves)
    of_filters = {
        name: change(slice(start, start + leaf.num_filters))
        for name, leaf, start in zip(names, leaves, offsets)
        if leaf.filter_axis is not None
    }
    return {
        "layer": {layer: change(i) for i, layer in enumerate(layers, first_layer)},
        "leaf": {name: change(i) for i, name in enumerate(names, first_leaf)},
        "filter": of_filters,
    }


def _reduced(sums: np.ndarray, groups: Sequence[Any]) -> np.ndarray:
    """Returns the sums [6, R, groups] of columns of [6, R, columns]; the last of the six is a maximum."""
    reduced = np.empty((*sums.shape[:-1], len(groups)))
    for i, group in enumerate(groups):
        columns = sums[..., group]
        reduced[:-1, :, i] = columns[:-1].sum(-1)
        reduced[-1, :, i] = columns[-1].max(-1, initial=0)
    return reduced
