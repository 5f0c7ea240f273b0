"""Parameter change of one run or of many runs: per leaf, layer and filter.

`before` is a tree of arrays. `after` is the same tree, for one run, or the same tree with a leading axis of R runs on
every leaf. With `own_starts`, `before` has this axis too, and each run is compared with its own start. The registry
`measures.MEASURES` has the measures.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.analysis.alignment import aligned, check_num_runs, has_axis_of_runs
from jaxft.analysis.compiled_changes import compiled_changes
from jaxft.analysis.measures import MEASURES
from jaxft.analysis.sums import Change, Sums, change_of, is_on_one_cpu, map_changes, sums, sums_in_chunks
from jaxft.core.paths import float_leaves, layer_of


def change(before: jax.Array, after: jax.Array) -> Change:
    """Returns the change between two arrays of the same shape, as scalars.

    Raises:
      ValueError: the shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(
            f"the arrays have the shapes {list(before.shape)} and {list(after.shape)}; they must be equal."
        )
    return sums(before, after, range(before.ndim)).change


def changes(before: Any, after: Any, own_starts: bool = False, filter_axis: int = -1) -> dict[str, dict[str, Change]]:
    """Returns {'layer', 'leaf', 'filter': {name: Change}}: the results of the three functions below.

    On a CPU, compiled C++ code reads the values of large trees once and returns NumPy arrays
    (`jaxft.analysis.compiled_changes`). Otherwise, XLA computes the measures of one layer after the other. Layers of
    the same shapes share a compiled program; a program for the whole tree would take as long to compile as a network.

    Args:
      before: a tree of arrays, w0.
      after: the same tree for one run, w, or with a leading axis of R runs on every leaf.
      own_starts: whether both trees have the axis of runs, so that each run has its own start.
      filter_axis: the axis of the output channels: -1 in Flax and Haiku, 0 in Equinox and PyTorch.

    Returns:
      The change, with a leading axis [R] on every value if `after` has the axis of runs.

    Raises:
      ValueError: the trees do not have the same leaves, or the shapes of a leaf do not match.
    """
    w0, w = float_leaves(before), float_leaves(after)
    has_runs = has_axis_of_runs(w0, w, own_starts)
    runs = w if has_runs else {name: leaf[None] for name, leaf in w.items()}
    if compiled := compiled_changes(w0, runs, own_starts, filter_axis):
        return compiled if has_runs else map_changes(lambda values: values[0], compiled)
    layers: dict[str, list[str]] = {}
    for name in w:
        layers.setdefault(layer_of(name), []).append(name)
    by_level: dict[str, dict[str, Change]] = {"layer": {}, "leaf": {}, "filter": {}}
    for layer, names in layers.items():
        leaves = [[tree[name] for name in names] for tree in (w0, w)]
        in_chunks = is_on_one_cpu(leaves[1])
        by_level["layer"][layer], of_leaves = _of_layer(*leaves, has_runs, filter_axis, in_chunks, tuple(MEASURES))
        for name, (of_filters, whole) in zip(names, of_leaves):
            by_level["leaf"][name] = whole
            if of_filters is not None:
                by_level["filter"][name] = of_filters
    order = {"layer": list(layers), "leaf": list(w), "filter": [name for name in w if name in by_level["filter"]]}
    return {level: {name: by_level[level][name] for name in names} for level, names in order.items()}


def whole_measures(before: Mapping[str, jax.Array], after: Mapping[str, jax.Array]) -> dict[str, float]:
    """Returns {measure: value} of one run over all leaves together, for measures that are registered with `whole`.

    Args:
      before: leaves by name, of any shape.
      after: the same leaves, of the same shapes.

    Raises:
      ValueError: the shapes of a leaf differ.
    """
    wanted = [name for name, entry in MEASURES.items() if entry.value.whole]
    if not wanted:
        return {}
    change = total_change({name: before[name] for name in after}, after)
    return {name: float(change[name]) for name in wanted}


def total_change(before: Any, after: Any) -> Change:
    """Returns the change of one run over all leaves together, as scalars.

    Args:
      before: a tree of arrays, w0, with at least one leaf.
      after: the same tree, w.

    Raises:
      ValueError: the trees do not have the same leaves and shapes, or no leaves.
    """
    w0, w, has_runs = aligned(before, after)
    if has_runs:
        raise ValueError("`after` has an axis of runs; give the parameters of one run.")
    if not w:
        raise ValueError("the trees have no floating-point leaves.")
    total = functools.reduce(_plus, (leaf_sums(w0[name], leaf)[1] for name, leaf in w.items()))
    return jax.tree.map(lambda values: values[0], change_of(total, tuple(MEASURES)))


def leaf_sums(before: Any, after: Any, filter_axis: int = -1) -> tuple[Sums | None, Sums]:
    """Returns (the sums of each filter [R, filters], the sums of the leaf [R]); the first is None without filters.

    Args:
      before: w0, of shape [...], or [R, ...] if each run has its own start.
      after: w, [R, ...].
      filter_axis: the axis of the output channels, without the axis of runs.
    """
    before, after = jnp.asarray(before), jnp.asarray(after)
    return _of_leaf(before, after, filter_axis, is_on_one_cpu([after]), tuple(MEASURES))


# `measures` only makes JAX compile a separate program for each set of registered measures.
@functools.partial(jax.jit, static_argnames=("filter_axis", "in_chunks", "measures"))
def _of_leaf(
    before: jax.Array,
    after: jax.Array,
    filter_axis: int = -1,
    in_chunks: bool = True,
    measures: tuple[str, ...] = (),
) -> tuple[Sums | None, Sums]:
    """Returns the result of `leaf_sums`."""
    if before.ndim < after.ndim:
        before = before[None]
    has_filters = after.ndim >= 3  # with the axis of runs
    w0, w = (
        _by_filter(leaf, filter_axis) if has_filters else leaf.reshape(len(leaf), -1, 1) for leaf in (before, after)
    )
    of_filters = sums_in_chunks(w0, w) if in_chunks else sums(w0, w, (1,))
    return of_filters if has_filters else None, of_filters.total()


@functools.partial(jax.jit, static_argnames=("has_runs", "filter_axis", "in_chunks", "measures"))
def _of_layer(
    before: Sequence[jax.Array],
    after: Sequence[jax.Array],
    has_runs: bool = True,
    filter_axis: int = -1,
    in_chunks: bool = True,
    measures: tuple[str, ...] = (),
) -> tuple[Change, list[tuple[Change | None, Change]]]:
    """Returns the change of a layer, and for each of its leaves the changes of its filters and of the leaf.

    The leaves `after` are [R, ...] with `has_runs`, otherwise [...], and so are the values of the changes.
    """
    if not has_runs:
        one_run = [leaf[None] for leaf in after]
        result = _of_layer(before, one_run, True, filter_axis, in_chunks, measures)
        return jax.tree.map(lambda values: values[0], result)
    of_leaves = [_of_leaf(*pair, filter_axis, in_chunks, measures) for pair in zip(before, after)]
    changes = [(None if filters is None else filters.change, whole.change) for filters, whole in of_leaves]
    return functools.reduce(Sums.plus, (whole for _, whole in of_leaves)).change, changes


def _by_filter(leaf: jax.Array, filter_axis: int) -> jax.Array:
    """Returns a leaf [R, ...] as [R, values, filters]."""
    axis = filter_axis + 1 if filter_axis >= 0 else filter_axis
    moved = jnp.moveaxis(leaf, axis, -1)
    return moved.reshape(len(leaf), -1, moved.shape[-1])


_plus = jax.jit(Sums.plus)


def leaf_changes(before: Any, after: Any, own_starts: bool = False) -> dict[str, Change]:
    """Returns {leaf: Change}, with values of shape [], or [R] for R runs; see `changes`."""
    return changes(before, after, own_starts)["leaf"]


def layer_changes(before: Any, after: Any, own_starts: bool = False) -> dict[str, Change]:
    """Returns {layer: Change}, with values of shape [], or [R] for R runs; see `changes`.

    A layer is all leaves of one parent, as kernel and bias.
    """
    return changes(before, after, own_starts)["layer"]


def filter_changes(before: Any, after: Any, own_starts: bool = False, filter_axis: int = -1) -> dict[str, Change]:
    """Returns {leaf: Change}, with values of shape [filters], or [R, filters] for R runs; see `changes`.

    It contains the leaves with at least two axes, without the axis of runs.

    Args:
      before: as in `changes`.
      after: as in `changes`.
      own_starts: as in `changes`.
      filter_axis: the axis of the output channels: -1 in Flax and Haiku, 0 in Equinox and PyTorch.
    """
    return changes(before, after, own_starts, filter_axis)["filter"]


@jax.jit
def pairwise_distances(after: Any) -> dict[str, jax.Array]:
    """Returns {layer: [R, R]}, the L2 distances between all pairs of runs. It computes one row at a time.

    Args:
      after: a tree of arrays [R, ...].

    Raises:
      ValueError: a leaf has another number of runs than the first leaf.
    """

    def distances(runs: jax.Array) -> jax.Array:
        def row(one: jax.Array) -> jax.Array:
            return jax.vmap(lambda other: jnp.linalg.norm(one - other))(runs)

        return jax.lax.map(row, runs)

    leaves = float_leaves(after)
    check_num_runs(leaves)
    return {layer: distances(runs) for layer, runs in _by_layer(leaves, 1).items()}


def _by_layer(leaves: dict[str, jax.Array], batch_dims: int) -> dict[str, jax.Array]:
    """Returns the leaves of each layer as one array [..., values], where `batch_dims` leading axes are kept."""
    layers: dict[str, list[jax.Array]] = {}
    for name, leaf in leaves.items():
        layers.setdefault(layer_of(name), []).append(leaf.reshape(*leaf.shape[:batch_dims], -1))
    return {layer: jnp.concatenate(arrays, axis=-1) for layer, arrays in layers.items()}
