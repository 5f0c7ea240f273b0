"""Singular values of the difference between two kernels: stable rank and the energy of the largest ones."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.analysis.alignment import aligned
from jaxft.ops.precision import at_least_float32, true_products


class Spectrum(NamedTuple):
    """The spectrum of the change D = W - W0 of a kernel, a matrix [inputs, outputs] with singular values s_1 >= s_2 ...

    Attributes:
      stable_rank: [] or [R], ||D||_F^2 / s_1^2, between 1 and the rank of D; nan if the kernel did not change.
      energy: [k] or [R, k], (s_1^2 + ... + s_j^2) / ||D||_F^2 for j = 1 ... k; nan if the kernel did not change.
      singular_values: [k] or [R, k], the k largest singular values; 0 beyond the rank.
    """

    stable_rank: jax.Array
    energy: jax.Array
    singular_values: jax.Array


def spectra(
    before: Any, after: Any, num_values: int = 10, own_starts: bool = False, filter_axis: int = -1
) -> dict[str, Spectrum]:
    """Returns {leaf: Spectrum} of the change of each leaf with at least two axes.

    A kernel of a convolution is the matrix [height * width * inputs, outputs]. Squared singular values are eigenvalues
    of the smaller one of D'D and DD', in float32. So singular values below 0.001 s_1 are rounding errors, and the
    stable rank and the energies have a relative error of about 1e-6.

    Args:
      before: a tree of arrays, W0.
      after: the same tree for one run, W, or with a leading axis of R runs on every leaf.
      num_values: k, the number of singular values.
      own_starts: whether both trees have the axis of runs, so that each run has its own start.
      filter_axis: the axis of the output channels: -1 in Flax and Haiku, 0 in Equinox and PyTorch.

    Raises:
      ValueError: `num_values` is below 1, or the trees do not have the same leaves and shapes.

    Reference: Rudelson & Vershynin 2007, "Sampling from large matrices: an approach through geometric functional
    analysis", for the stable rank (numerical rank there).
    """
    if num_values < 1:
        raise ValueError(f"`num_values` is {num_values}; it must be at least 1.")
    w0, w, has_runs = aligned(before, after, own_starts)
    with_runs = {name: (w0[name], leaf) for name, leaf in w.items() if leaf.ndim >= 3}  # one axis counts the runs
    by_leaf = {name: _spectrum(*pair, num_values, filter_axis) for name, pair in with_runs.items()}
    return by_leaf if has_runs else jax.tree.map(lambda values: values[0], by_leaf)


@functools.partial(jax.jit, static_argnames=("num_values", "filter_axis"))
@true_products
def _spectrum(before: jax.Array, after: jax.Array, num_values: int, filter_axis: int) -> Spectrum:
    """Returns the spectrum of each run of a leaf [R, ...]; `before` may be without the axis of runs."""
    change = at_least_float32(after) - at_least_float32(before if before.ndim == after.ndim else before[None])
    change = jnp.moveaxis(change, filter_axis + 1 if filter_axis >= 0 else filter_axis, -1)
    matrices = change.reshape(len(change), -1, change.shape[-1])
    scale = jnp.abs(matrices).max((1, 2), keepdims=True, initial=0)  # without it, squares of small changes underflow
    scaled = matrices / jnp.where(scale > 0, scale, 1)
    is_tall = matrices.shape[1] >= matrices.shape[2]
    gram = jnp.einsum("rio,rip->rop" if is_tall else "rio,rjo->rij", scaled, scaled)
    squares = jnp.maximum(jnp.linalg.eigvalsh(gram)[:, ::-1], 0)
    largest = jnp.pad(squares, ((0, 0), (0, max(num_values - squares.shape[1], 0))))[:, :num_values]
    total = jnp.trace(gram, axis1=1, axis2=2)
    energy = jnp.minimum(jnp.cumsum(largest, 1) / total[:, None], 1)
    return Spectrum(jnp.maximum(total / squares[:, 0], 1), energy, jnp.sqrt(largest) * scale[:, :, 0])
