"""How far parameters moved: per leaf, layer and filter, of many runs at once.

`before` is any tree of arrays, `after` the same tree with a leading axis of R runs on every leaf. Where `before` has
that axis too, each run is compared with its own start. What is measured is the registry `measures.MEASURES`.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.analysis.measures import MEASURES, Totals, extra_terms
from jaxft.core.paths import flatten, layer_of


@jax.tree_util.register_pytree_with_keys_class
class Change(dict[str, jax.Array]):
    """What changed from w0 to w, {measure: value}, in the order of MEASURES, which JAX would lose in a plain dict."""

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, jax.Array]], tuple[str, ...]]:
        """Returns the values with their keys, and the names of the measures."""
        return [(jax.tree_util.DictKey(name), value) for name, value in self.items()], tuple(self)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Sequence[Any]) -> "Change":
        """Returns the change with these values."""
        return cls(zip(names, values))


class Sums(NamedTuple):
    """What a change is worked out from; those of parts add up to that of the whole.

    Attributes:
      terms: [5 + extra, ...]: the sums of d^2, w0^2, w^2, w w0, the number of signs that turned, and `extra_terms`.
      num_values: how many values they are over.
    """

    terms: jax.Array
    num_values: jax.Array

    def total(self) -> "Sums":
        """Returns the sums over the last axis too."""
        return Sums(self.terms.sum(-1), self.num_values * self.terms.shape[-1])

    def plus(self, other: "Sums") -> "Sums":
        """Returns the sums over what both are of."""
        return Sums(self.terms + other.terms, self.num_values + other.num_values)

    @property
    def change(self) -> Change:
        """Returns the change."""
        l2, norm_before, norm_after = jnp.sqrt(self.terms[:3])
        totals = Totals(l2, norm_before, norm_after, self.terms, self.num_values, tuple(extra_terms()))
        return Change({name: entry.value.of(totals) for name, entry in MEASURES.items()})


def sums(before: jax.Array, after: jax.Array, axes: Sequence[int]) -> Sums:
    """Returns the sums over some axes of two arrays, which have one shape but for the runs."""
    flips = (before * jnp.sign(after) < 0).astype(after.dtype)
    products = (after - before) ** 2, before**2, after**2, after * before, flips
    extra = (term(before, after).astype(after.dtype) for term in extra_terms().values())
    totals = jnp.broadcast_arrays(*(product.sum(tuple(axes)) for product in (*products, *extra)))
    return Sums(jnp.stack(totals), jnp.asarray(math.prod(after.shape[axis] for axis in axes), after.dtype))


def change(before: jax.Array, after: jax.Array) -> Change:
    """Returns the change between two arrays of one shape, as scalars."""
    return sums(before, after, range(before.ndim)).change


def changes(before: Any, after: Any) -> dict[str, dict[str, Change]]:
    """Returns {'layer', 'leaf', 'filter': {name: Change}}: what the three functions below return, in one pass.

    Leaves of one shape share a compiled program: one of the whole tree would take as long to compile as a network.
    """
    w0, w, measures = flatten(before), flatten(after), tuple(MEASURES)
    _check_trees(w0, w)
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
    """Returns {measure: value} of one run over all leaves together, for the measures that are registered as `whole`.

    Args:
      before: leaves by name; after: the same leaves, of the same shapes.
    """
    wanted = [name for name, entry in MEASURES.items() if entry.value.whole]
    if not wanted:
        return {}
    measures = tuple(MEASURES)
    of_leaves = (_of_leaf(jnp.asarray(before[name])[None], jnp.asarray(after[name])[None], measures) for name in after)
    change = _change(functools.reduce(_plus, (whole for _, whole in of_leaves)), measures)
    return {name: float(change[name][0]) for name in wanted}


# JAX keeps one compiled program for each set of registered measures: `measures` has no other use.
@functools.partial(jax.jit, static_argnames="measures")
def _of_leaf(before: jax.Array, after: jax.Array, measures: tuple[str, ...] = ()) -> tuple[Change | None, Sums]:
    """Returns the change of each filter of a leaf [R, ...], where it has any, and the sums over all its values."""
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


def leaf_changes(before: Any, after: Any) -> dict[str, Change]:
    """Returns {leaf: Change of [R]}."""
    return changes(before, after)["leaf"]


def layer_changes(before: Any, after: Any) -> dict[str, Change]:
    """Returns {layer: Change of [R]}; a layer is all leaves of one parent (kernel and bias, scale and bias)."""
    return changes(before, after)["layer"]


def filter_changes(before: Any, after: Any) -> dict[str, Change]:
    """Returns {kernel: Change of [R, filters]} for every leaf of two dimensions or more; the last is the output's."""
    return changes(before, after)["filter"]


@jax.jit
def pairwise_distances(after: Any) -> dict[str, jax.Array]:
    """Returns {layer: [R, R]}: the L2 distance between every two runs, a row at a time."""

    def distances(runs: jax.Array) -> jax.Array:
        def row(one: jax.Array) -> jax.Array:
            return jax.vmap(lambda other: jnp.linalg.norm(one - other))(runs)

        return jax.lax.map(row, runs)

    return {layer: distances(runs) for layer, runs in _by_layer(flatten(after), 1).items()}


def _check_trees(before: dict[str, jax.Array], after: dict[str, jax.Array]) -> None:
    """Raises a ValueError where the trees do not match."""
    if before.keys() != after.keys():
        raise ValueError(f"the trees differ in {', '.join(sorted(before.keys() ^ after.keys()))}.")
    shared = all(before[name].shape == after[name].shape[1:] for name in after)
    if not shared and any(before[name].shape != after[name].shape for name in after):
        raise ValueError("every leaf of `after` has the shape of its leaf of `before`, with a leading axis of runs.")


def _by_layer(leaves: dict[str, jax.Array], batch_dims: int) -> dict[str, jax.Array]:
    """Returns the leaves of each layer in one array [..., values]."""
    layers: dict[str, list[jax.Array]] = {}
    for name, leaf in leaves.items():
        layers.setdefault(layer_of(name), []).append(leaf.reshape(*leaf.shape[:batch_dims], -1))
    return {layer: jnp.concatenate(parts, axis=-1) for layer, parts in layers.items()}
