"""Gradients of a batch: worked through in parts, and at the point that SAM looks at."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def in_micro_batches(grad_fn: Callable[..., Any], num_micro_batches: int) -> Callable[..., Any]:
    """Returns `grad_fn` of a batch that is worked through in parts, of which one at a time is in memory.

    `grad_fn(params, batch_stats, batch) -> (grads, (batch_stats, metrics))`, whose gradient and metrics, a tree, are of
    means over the batch, a tree of arrays [images, ...]. So are those of the result: it is that of the whole batch, up
    to rounding, but for batch norm, which sees a part at a time; its running statistics go from part to part.
    """
    if num_micro_batches == 1:
        return grad_fn

    def whole(params: Tree, batch_stats: Tree, batch: Tree) -> Any:
        micro_batches = jax.tree.map(lambda x: x.reshape(num_micro_batches, -1, *x.shape[1:]), batch)

        def add(carry: Any, micro_batch: Tree) -> tuple[Any, None]:
            stats, total = carry
            grads, (stats, metrics) = grad_fn(params, stats, micro_batch)
            return (stats, jax.tree.map(jnp.add, total, (grads, metrics))), None

        first = jax.tree.map(lambda x: x[0], micro_batches)
        shapes = jax.eval_shape(grad_fn, params, batch_stats, first)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][1]))
        # XLA's CPU backend runs convolutions inside loops many times slower.
        unroll = num_micro_batches if jax.default_backend() == "cpu" else 1
        (stats, total), _ = jax.lax.scan(add, (batch_stats, nothing), micro_batches, unroll=unroll)
        grads, metrics = jax.tree.map(lambda x: x / num_micro_batches, total)
        return grads, (stats, metrics)

    return whole


def sam_point(params: Tree, grads: Tree, radius: jax.Array) -> Tree:
    """Returns the point at distance `radius` up the gradient: w + rho g / ||g|| (Foret et al. 2021, equation 2).

    The norm is over all leaves. The gradient is the loss's: weight decay is no part of it.
    """
    norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads)))
    scale = radius / (norm + 1e-12)  # squares of what is smaller vanish in float32
    return jax.tree.map(lambda leaf, grad: leaf + scale * grad, params, grads)


def running_mean(average: Tree, values: Tree, decay: jax.Array, count: jax.Array) -> Tree:
    """Returns the exponential moving average of `count` trees, the last of which is `values`, from that before.

    Value t of T counts in proportion to decay^(T - t), and the weights sum to 1: it is an average of what it was given
    from the first value on, and not one that begins at zero, or that the first value weighs down for 1 / (1 - decay)
    steps. So it is Adam's corrected mean (Kingma & Ba 2015, section 3) in steps: the average before has the share
    decay (1 - decay^(T - 1)) / (1 - decay^T), which is 0 at T = 1, near (T - 1) / T at first, and `decay` in the end.
    """
    log, count = jnp.log(decay), count.astype(decay.dtype)
    kept = decay * jnp.expm1((count - 1) * log) / jnp.expm1(count * log)
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, average, values)
