"""How far parameters moved: per leaf, layer and filter, of many runs at once.

`before` is any tree of arrays, `after` the same tree with a leading axis of R runs on every leaf. Where `before` has
that axis too, each run is compared with its own start.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.core.paths import flatten, layer_of


class Change(NamedTuple):
    """What changed from w0 to w, with d = w - w0.

    Attributes:
      l2: ||d||.
      relative_l2: ||d|| / ||w0||; inf where w0 is zero and w is not, nan where both are.
      rms: ||d|| / sqrt(number of values).
      cosine: w . w0 / (||w|| ||w0||); nan where either is zero.
      sign_flips: share of values whose sign turned; a zero has none.
    """

    l2: jax.Array
    relative_l2: jax.Array
    rms: jax.Array
    cosine: jax.Array
    sign_flips: jax.Array


class Sums(NamedTuple):
    """What a change is worked out from; those of parts add up to that of the whole.

    Attributes:
      terms: [5, ...]: the sums of d^2, w0^2, w^2, w w0, and the number of signs that turned.
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
        l2, norm0, norm = jnp.sqrt(self.terms[:3])
        return Change(
            l2=l2,
            relative_l2=l2 / norm0,
            rms=l2 / jnp.sqrt(self.num_values),
            cosine=self.terms[3] / (norm * norm0),
            sign_flips=self.terms[4] / self.num_values,
        )


def sums(before: jax.Array, after: jax.Array, axes: Sequence[int]) -> Sums:
    """Returns the sums over some axes of two arrays, which have one shape but for the runs."""
    flips = (before * jnp.sign(after) < 0).astype(after.dtype)
    products = (after - before) ** 2, before**2, after**2, after * before, flips
    found = jnp.broadcast_arrays(*(product.sum(tuple(axes)) for product in products))
    return Sums(jnp.stack(found), jnp.asarray(math.prod(after.shape[axis] for axis in axes), after.dtype))


def change(before: jax.Array, after: jax.Array) -> Change:
    """Returns the change between two arrays of one shape, as scalars."""
    return sums(before, after, range(before.ndim)).change


def changes(before: Any, after: Any) -> dict[str, dict[str, Change]]:
    """Returns {'layer', 'leaf', 'filter': {name: Change}}: what the three functions below return, in one pass.

    Leaves of one shape share a compiled program: one of the whole tree would take as long to compile as a network.
    """
    w0, w = flatten(before), flatten(after)
    _check_trees(w0, w)
    of_layers: dict[str, Sums] = {}
    found: dict[str, dict[str, Change]] = {"layer": {}, "leaf": {}, "filter": {}}
    for name, leaf in w.items():
        of_filters, whole = _of_leaf(w0[name], leaf)
        if of_filters is not None:
            found["filter"][name] = of_filters
        found["leaf"][name] = _change(whole)
        layer = layer_of(name)
        of_layers[layer] = _plus(of_layers[layer], whole) if layer in of_layers else whole
    found["layer"] = {layer: _change(whole) for layer, whole in of_layers.items()}
    return found


@jax.jit
def _of_leaf(before: jax.Array, after: jax.Array) -> tuple[Change | None, Sums]:
    """Returns the change of each filter of a leaf [R, ...], where it has any, and the sums over all its values."""
    if before.ndim < after.ndim:
        before = before[None]
    if after.ndim < 3:  # with the axis of runs
        return None, sums(before, after, range(1, after.ndim))
    of_filters = sums(before, after, range(1, after.ndim - 1))
    return of_filters.change, of_filters.total()


@jax.jit
def _change(sums: Sums) -> Change:
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
