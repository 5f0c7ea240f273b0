"""How far parameters moved: per leaf, layer and filter, batched by `vmap` over runs.

`before` is any tree of arrays, `after` the same tree with a leading axis of R runs on every leaf. Where `before` has
that axis too, each run is compared with its own start.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.paths import flatten, layer_of


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


def change(before: jax.Array, after: jax.Array) -> Change:
    """Returns the change between two arrays of one shape, as scalars."""
    w0, w = before.ravel(), after.ravel()
    l2 = jnp.linalg.norm(w - w0)
    norm0 = jnp.linalg.norm(w0)
    return Change(
        l2=l2,
        relative_l2=l2 / norm0,
        rms=l2 / jnp.sqrt(float(w0.size)),
        cosine=jnp.vdot(w, w0) / (jnp.linalg.norm(w) * norm0),
        sign_flips=(w0 * jnp.sign(w) < 0).mean(),
    )


def change_of_filters(before: jax.Array, after: jax.Array) -> Change:
    """Returns the change of each filter of a kernel [..., filters]: the last axis is the output's."""
    return jax.vmap(change, in_axes=(-1, -1))(before, after)


@jax.jit
def leaf_changes(before: Any, after: Any) -> dict[str, Change]:
    """Returns {leaf: Change of [R]}."""
    return _over_runs(change, flatten(before), flatten(after))


@jax.jit
def layer_changes(before: Any, after: Any) -> dict[str, Change]:
    """Returns {layer: Change of [R]}; a layer is all leaves of one parent (kernel and bias, scale and bias)."""
    w0, w = flatten(before), flatten(after)
    shared = _shared(w0, w)
    return _over_runs(change, _by_layer(w0, 0 if shared else 1), _by_layer(w, 1))


@jax.jit
def filter_changes(before: Any, after: Any) -> dict[str, Change]:
    """Returns {kernel: Change of [R, filters]} for every leaf of two dimensions or more."""
    w0, w = flatten(before), flatten(after)
    kernels = [name for name, leaf in w.items() if leaf.ndim >= 3]  # with the axis of runs
    return _over_runs(change_of_filters, {n: w0[n] for n in kernels}, {n: w[n] for n in kernels})


@jax.jit
def pairwise_distances(after: Any) -> dict[str, jax.Array]:
    """Returns {layer: [R, R]}: the L2 distance between every two runs, a row at a time."""

    def distances(runs: jax.Array) -> jax.Array:
        def row(one: jax.Array) -> jax.Array:
            return jax.vmap(lambda other: jnp.linalg.norm(one - other))(runs)

        return jax.lax.map(row, runs)

    return {layer: distances(runs) for layer, runs in _by_layer(flatten(after), 1).items()}


def _over_runs(
    measure: Callable[[jax.Array, jax.Array], Change],
    before: dict[str, jax.Array],
    after: dict[str, jax.Array],
) -> dict[str, Change]:
    axes = (None if _shared(before, after) else 0, 0)
    return {name: jax.vmap(measure, in_axes=axes)(before[name], after[name]) for name in after}


def _shared(before: dict[str, jax.Array], after: dict[str, jax.Array]) -> bool:
    """Tells whether `before` lacks the axis of runs; raises where the trees do not match."""
    if before.keys() != after.keys():
        raise ValueError(f"the trees differ in {', '.join(sorted(before.keys() ^ after.keys()))}.")
    shared = all(before[name].shape == after[name].shape[1:] for name in after)
    if not shared and any(before[name].shape != after[name].shape for name in after):
        raise ValueError("every leaf of `after` has the shape of its leaf of `before`, with a leading axis of runs.")
    return shared


def _by_layer(leaves: dict[str, jax.Array], batch_dims: int) -> dict[str, jax.Array]:
    """Returns the leaves of each layer in one array [..., values]."""
    layers: dict[str, list[jax.Array]] = {}
    for name, leaf in leaves.items():
        layers.setdefault(layer_of(name), []).append(leaf.reshape(*leaf.shape[:batch_dims], -1))
    return {layer: jnp.concatenate(parts, axis=-1) for layer, parts in layers.items()}
