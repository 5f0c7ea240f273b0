"""Parameter change of one run or of many runs: per leaf, layer and filter.

`before` is a tree of arrays. `after` is the same tree, for one run, or the same tree with a leading axis of R runs on
every leaf. With `own_starts`, `before` has this axis too, and each run is compared with its own start. The registry
`measures.MEASURES` has the measures.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.analysis.measures import MEASURES, Totals, extra_terms
from jaxft.core.paths import flatten, layer_of
from jaxft.core.text import some_of


@jax.tree_util.register_pytree_with_keys_class
class Change(dict[str, jax.Array]):
    """The change from w0 to w: {measure: value}, in the order of `MEASURES`, which JAX would not keep for a dict."""

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, jax.Array]], tuple[str, ...]]:
        """Returns the values with their keys, and the names of the measures, for JAX."""
        return [(jax.tree_util.DictKey(name), value) for name, value in self.items()], tuple(self)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Sequence[Any]) -> "Change":
        """Returns the change with these names and values, for JAX."""
        return cls(zip(names, values))


class Sums(NamedTuple):
    """Sums over values, from which a change is computed. The sums of a layer are the total of the sums of its leaves.

    Attributes:
      terms: [5 + extra, ...]: the sums of (w - w0)^2, w0^2, w^2 and w w0, the number of changed signs, and the sums of
        `extra_terms`.
      num_values: scalar, the number of values.
    """

    terms: jax.Array
    num_values: jax.Array

    def total(self) -> "Sums":
        """Returns the sums with the last axis summed too."""
        return Sums(self.terms.sum(-1), self.num_values * self.terms.shape[-1])

    def plus(self, other: "Sums") -> "Sums":
        """Returns the sums over the values of both."""
        return Sums(self.terms + other.terms, self.num_values + other.num_values)

    @property
    def change(self) -> Change:
        """Returns all registered measures of these sums."""
        l2, norm_before, norm_after = jnp.sqrt(self.terms[:3])
        totals = Totals(l2, norm_before, norm_after, self.terms, self.num_values, tuple(extra_terms()))
        return Change({name: entry.value.compute(totals) for name, entry in MEASURES.items()})


def sums(before: jax.Array, after: jax.Array, axes: Sequence[int]) -> Sums:
    """Returns the sums over `axes`.

    Args:
      before: w0, with the shape of `after`, or with size 1 on the axis of runs.
      after: w, of any shape.
      axes: the axes that are summed.
    """
    flips = (before * jnp.sign(after) < 0).astype(after.dtype)
    products = (after - before) ** 2, before**2, after**2, after * before, flips
    extra = (term(before, after).astype(after.dtype) for term in extra_terms().values())
    totals = jnp.broadcast_arrays(*(product.sum(tuple(axes)) for product in (*products, *extra)))
    return Sums(jnp.stack(totals), jnp.asarray(math.prod(after.shape[axis] for axis in axes), after.dtype))


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


def changes(before: Any, after: Any, own_starts: bool = False) -> dict[str, dict[str, Change]]:
    """Returns {'layer', 'leaf', 'filter': {name: Change}}: the results of the three functions below.

    Leaves of the same shape share a compiled program. A program for the whole tree would take as long to compile as a
    network.

    Args:
      before: a tree of arrays, w0.
      after: the same tree for one run, w, or with a leading axis of R runs on every leaf.
      own_starts: whether both trees have the axis of runs, so that each run has its own start.

    Returns:
      The change, with a leading axis [R] on every value if `after` has the axis of runs.

    Raises:
      ValueError: the trees do not have the same leaves, or the shapes of a leaf do not match.
    """
    w0, w = flatten(before), flatten(after)
    if _has_runs(w0, w, own_starts):
        return _changes_of_runs(w0, w)
    by_level = _changes_of_runs(*({name: jnp.asarray(leaf)[None] for name, leaf in tree.items()} for tree in (w0, w)))
    return jax.tree.map(lambda values: values[0], by_level)


def _changes_of_runs(w0: Mapping[str, jax.Array], w: Mapping[str, jax.Array]) -> dict[str, dict[str, Change]]:
    """Returns the result of `changes` for leaves [R, ...] `w`, and `w0` with or without the axis of runs."""
    measures = tuple(MEASURES)
    of_layers: dict[str, Sums] = {}
    by_level: dict[str, dict[str, Change]] = {"layer": {}, "leaf": {}, "filter": {}}
    for name, leaf in w.items():
        of_filters, whole = _of_leaf(w0[name], leaf, measures)
        if of_filters is not None:
            by_level["filter"][name] = of_filters
        by_level["leaf"][name] = _change(whole, measures)
        layer = layer_of(name)
        of_layers[layer] = _plus(of_layers[layer], whole) if layer in of_layers else whole
    by_level["layer"] = {layer: _change(whole, measures) for layer, whole in of_layers.items()}
    return by_level


def whole_measures(before: Mapping[str, jax.Array], after: Mapping[str, jax.Array]) -> dict[str, float]:
    """Returns {measure: value} of one run over all leaves together, for measures that are registered with `whole`.

    Args:
      before: leaves by name, of any shape.
      after: the same leaves, of the same shapes.

    Raises:
      ValueError: the shapes of a leaf differ.
    """
    if _has_runs({name: before[name] for name in after}, after, own_starts=False):
        raise ValueError("`after` has an axis of runs; give the parameters of one run.")
    wanted = [name for name, entry in MEASURES.items() if entry.value.whole]
    if not wanted:
        return {}
    measures = tuple(MEASURES)
    of_leaves = (_of_leaf(jnp.asarray(before[name])[None], jnp.asarray(after[name])[None], measures) for name in after)
    change = _change(functools.reduce(_plus, (whole for _, whole in of_leaves)), measures)
    return {name: float(change[name][0]) for name in wanted}


# `measures` only makes JAX compile a separate program for each set of registered measures.
@functools.partial(jax.jit, static_argnames="measures")
def _of_leaf(before: jax.Array, after: jax.Array, measures: tuple[str, ...] = ()) -> tuple[Change | None, Sums]:
    """Returns the change of each filter of a leaf [R, ...], None if it has no filters, and the sums over all values."""
    if before.ndim < after.ndim:
        before = before[None]
    if after.ndim < 3:  # with the axis of runs
        return None, sums(before, after, range(1, after.ndim))
    of_filters = sums(before, after, range(1, after.ndim - 1))
    return of_filters.change, of_filters.total()


@functools.partial(jax.jit, static_argnames="measures")
def _change(sums: Sums, measures: tuple[str, ...] = ()) -> Change:
    return sums.change


_plus = jax.jit(Sums.plus)


def leaf_changes(before: Any, after: Any, own_starts: bool = False) -> dict[str, Change]:
    """Returns {leaf: Change}, with values of shape [], or [R] for R runs; see `changes`."""
    return changes(before, after, own_starts)["leaf"]


def layer_changes(before: Any, after: Any, own_starts: bool = False) -> dict[str, Change]:
    """Returns {layer: Change}, with values of shape [], or [R] for R runs; see `changes`.

    A layer is all leaves of one parent, as kernel and bias.
    """
    return changes(before, after, own_starts)["layer"]


def filter_changes(before: Any, after: Any, own_starts: bool = False) -> dict[str, Change]:
    """Returns {leaf: Change}, with values of shape [filters], or [R, filters] for R runs; see `changes`.

    It contains the leaves [..., filters] with at least two axes, without the axis of runs.
    """
    return changes(before, after, own_starts)["filter"]


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

    leaves = flatten(after)
    _check_num_runs(leaves)
    return {layer: distances(runs) for layer, runs in _by_layer(leaves, 1).items()}


def _has_runs(before: Mapping[str, Any], after: Mapping[str, Any], own_starts: bool) -> bool:
    """Returns whether `after` has an axis of runs: its first leaf has one more axis than in `before`, or `own_starts`.

    Raises:
      ValueError: the trees do not have the same leaves, or the shapes of a leaf do not match.
    """
    if before.keys() != after.keys():
        raise ValueError(f"only one of the two trees has {some_of(sorted(before.keys() ^ after.keys()))}.")
    has_runs = own_starts or any(np.ndim(after[name]) > np.ndim(before[name]) for name in list(after)[:1])
    first_axis = int(has_runs and not own_starts)
    for name, leaf in after.items():
        if np.ndim(leaf) < int(has_runs) or np.shape(leaf)[first_axis:] != np.shape(before[name]):
            others = "" if own_starts else ", or a leading axis of runs in every leaf"
            raise ValueError(
                f"leaf {name!r} has shape {list(np.shape(before[name]))} in `before` and {list(np.shape(leaf))} in "
                f"`after`; `after` must have the same shape{others}."
            )
    if has_runs:
        _check_num_runs(after)
    return has_runs


def _check_num_runs(leaves: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if a leaf [R, ...] has another number R of runs than the first leaf."""
    shapes = {name: np.shape(leaf) for name, leaf in leaves.items()}
    for name, shape in shapes.items():
        first, first_shape = next(iter(shapes.items()))
        if shape[:1] != first_shape[:1]:
            raise ValueError(
                f"leaf {name!r} has shape {list(shape)}, and {first!r} has {list(first_shape)}; their first axes, the "
                "runs, must be equal."
            )


def _by_layer(leaves: dict[str, jax.Array], batch_dims: int) -> dict[str, jax.Array]:
    """Returns the leaves of each layer as one array [..., values], where `batch_dims` leading axes are kept."""
    layers: dict[str, list[jax.Array]] = {}
    for name, leaf in leaves.items():
        layers.setdefault(layer_of(name), []).append(leaf.reshape(*leaf.shape[:batch_dims], -1))
    return {layer: jnp.concatenate(arrays, axis=-1) for layer, arrays in layers.items()}
