"""Sums and maxima over the values of filters, leaves and layers, from which measures of change are computed."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.analysis.measures import MEASURES, Totals, extra_maxima, extra_terms
from jaxft.ops.precision import at_least_float32

CHUNK = 1 << 15  # values of a chunk, which then stays in the cache of a CPU core while it is summed
SCALE = 2.0**64  # without it, the product of two small values underflows, and has no sign
WIDTH = 512  # values of a row: XLA sums narrow rows slowly


@jax.tree_util.register_pytree_with_keys_class
class Change(dict[str, Any]):
    """The change from w0 to w: {measure: value}, in the order of `MEASURES`, which JAX would not keep for a dict."""

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, jax.Array]], tuple[str, ...]]:
        """Returns the values with their keys, and the names of the measures, for JAX."""
        return [(jax.tree_util.DictKey(name), value) for name, value in self.items()], tuple(self)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Sequence[Any]) -> "Change":
        """Returns the change with these names and values, for JAX."""
        return cls(zip(names, values))


ChangesByLevel = dict[str, dict[str, Change]]  # {'layer', 'leaf', 'filter': {name: Change}}


def map_changes(function: Callable[..., Any], first: ChangesByLevel, *others: ChangesByLevel) -> ChangesByLevel:
    """Returns the function of every value of one or several results, in the order of the first.

    `jax.tree.map` would sort the names of layers and leaves.
    """
    return {
        level: {
            name: Change(
                (measure, function(value, *(other[level][name][measure] for other in others)))
                for measure, value in change.items()
            )
            for name, change in names.items()
        }
        for level, names in first.items()
    }


class Sums(NamedTuple):
    """Sums and maxima over values. Those of a layer are the total of its leaves.

    Attributes:
      terms: [5 + extra, ...]: the sums of (w - w0)^2, w0^2, w^2 and w w0, the number of changed signs, and the sums of
        `extra_terms`.
      peaks: [maxima, ...]: the maxima of `extra_maxima`; 0 if there are no values.
      num_values: the number of values, a scalar or an array that broadcasts with [...].
    """

    terms: jax.Array
    peaks: jax.Array
    num_values: jax.Array

    def total(self) -> "Sums":
        """Returns the sums and maxima with the last axis reduced too."""
        return Sums(self.terms.sum(-1), self.peaks.max(-1, initial=0), self.num_values * self.terms.shape[-1])

    def plus(self, other: "Sums") -> "Sums":
        """Returns the sums and maxima over the values of both."""
        peaks = jnp.maximum(self.peaks, other.peaks)
        return Sums(self.terms + other.terms, peaks, self.num_values + other.num_values)

    @property
    def change(self) -> Change:
        """Returns all registered measures of these sums and maxima."""
        l2, norm_before, norm_after = jnp.sqrt(self.terms[:3])
        totals = Totals(
            l2=l2,
            norm_before=norm_before,
            norm_after=norm_after,
            terms=self.terms,
            num_values=self.num_values,
            extra_names=tuple(extra_terms()),
            peaks=self.peaks,
            peak_names=tuple(extra_maxima()),
        )
        return Change({name: entry.value.compute(totals) for name, entry in MEASURES.items()})


# `measures` only makes JAX compile a separate program for each set of registered measures.
@functools.partial(jax.jit, static_argnames="measures")
def change_of(sums: Sums, measures: tuple[str, ...]) -> Change:
    """Returns `sums.change`, compiled."""
    return sums.change


def sums(before: jax.Array, after: jax.Array, axes: Sequence[int]) -> Sums:
    """Returns the sums and maxima over `axes`, computed in at least float32.

    Args:
      before: w0, with the shape of `after`, or with size 1 on the axis of runs.
      after: w, of any shape.
      axes: the axes that are reduced.
    """
    before, after = at_least_float32(before), at_least_float32(after)
    terms, peaks = _reduced(before, after, tuple(axes))
    return _stacked(before, terms, peaks, tuple(axes), math.prod(after.shape[axis] for axis in axes))


def is_on_one_cpu(leaves: Sequence[Any]) -> bool:
    """Returns whether arrays [...] are computed on one CPU device; arrays of NumPy are on the default device."""
    on_devices = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    devices = set().union(*(leaf.devices() for leaf in on_devices)) or {jax.devices()[0]}
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def sums_in_chunks(before: jax.Array, after: jax.Array) -> Sums:
    """Returns the sums and maxima over the axis of values, for a leaf on one CPU device.

    The result is that of `sums` over axis 1, up to rounding. XLA computes every sum on a CPU with a loop of its own, so
    the sums of a large leaf would read the leaf from memory many times. Here each chunk is read once.

    Args:
      before: w0, [R, values, filters] or [1, values, filters].
      after: w, [R, values, filters].
    """
    num_runs, num_values, num_filters = after.shape
    if num_values * num_filters <= CHUNK:
        return sums(before, after, (1,))
    fold = math.gcd(num_values, max(WIDTH // num_filters, 1))
    if fold > 1:
        wide = (leaf.reshape(len(leaf), num_values // fold, fold * num_filters) for leaf in (before, after))
        return _unfolded(sums_in_chunks(*wide), fold)
    before, after = at_least_float32(before), at_least_float32(after)
    rows = max(CHUNK // num_filters, 1)
    whole, rest = divmod(num_values, rows)

    def of_rows(run: jax.Array, start: Any, count: int) -> Reductions:
        own_start = run if len(before) > 1 else jnp.zeros_like(run)
        sizes = (1, count, num_filters)
        pairs = ((before, own_start), (after, run))
        w0, w = (jax.lax.dynamic_slice(leaf, (i, start, jnp.zeros_like(run)), sizes)[0] for leaf, i in pairs)
        return _reduced(w0, w, (0,))

    def of_run(run: jax.Array) -> Reductions:
        total = of_rows(run, jnp.zeros_like(run), rows)
        total = jax.lax.fori_loop(1, whole, lambda i, total: _added(total, of_rows(run, i * rows, rows)), total)
        return _added(total, of_rows(run, jnp.full_like(run, whole * rows), rest)) if rest else total

    terms, peaks = jax.lax.map(of_run, jnp.arange(num_runs))
    return _stacked(before, terms, peaks, (1,), num_values)


Reductions = tuple[list[jax.Array], list[jax.Array]]  # sums except those of w0^2, and maxima


def _reduced(before: jax.Array, after: jax.Array, axes: tuple[int, ...]) -> Reductions:
    """Returns the sums and maxima over `axes`, each as its own array: XLA computes stacked ones slowly."""
    flips = jnp.where((before * SCALE) * (after * SCALE) < 0, 1, 0).astype(after.dtype)
    products = (after - before) ** 2, after**2, after * before, flips
    extra = (term(before, after).astype(after.dtype) for term in extra_terms().values())
    peaks = (term(before, after).astype(after.dtype) for term in extra_maxima().values())
    return [term.sum(axes) for term in (*products, *extra)], [_max(peak, axes) for peak in peaks]


def _max(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns the maximum over `axes`; 0 without values. XLA is slower with a value to start from."""
    return x.max(axes) if all(x.shape[axis] for axis in axes) else x.max(axes, initial=0)


def _added(first: Reductions, second: Reductions) -> Reductions:
    return [a + b for a, b in zip(first[0], second[0])], [jnp.maximum(a, b) for a, b in zip(first[1], second[1])]


def _stacked(
    before: jax.Array, terms: list[jax.Array], peaks: list[jax.Array], axes: tuple[int, ...], num_values: int
) -> Sums:
    """Returns `Sums` from the reductions, with the sums of w0^2, which all runs with the same start share."""
    together = jnp.broadcast_arrays(terms[0], (before**2).sum(axes), *terms[1:])
    count = jnp.asarray(num_values, terms[0].dtype)
    return Sums(jnp.stack(together), jnp.stack(jnp.broadcast_arrays(*peaks)), count)


def _unfolded(wide: Sums, fold: int) -> Sums:
    """Returns the sums and maxima of [..., filters] from those of [..., fold * filters]."""
    terms, peaks = (values.reshape(*values.shape[:-1], fold, -1) for values in (wide.terms, wide.peaks))
    return Sums(terms.sum(-2), peaks.max(-2), wide.num_values * fold)
