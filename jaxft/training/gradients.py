"""Gradient accumulation over micro-batches, the ascent step of SAM, and the moving average of weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def in_micro_batches(grad_fn: Callable[..., Any], num_micro_batches: int) -> Callable[..., Any]:
    """Returns a function like `grad_fn` that processes a batch as micro-batches, one after another, to save memory.

    `grad_fn(params, batch_stats, batch) -> (grads, (batch_stats, metrics))`. The leaves of the batch have shape
    [images, ...]; gradients and metrics are of means over the images. The result agrees with that for the whole batch
    up to rounding, except for batch norm: it normalizes each micro-batch by the statistics of this micro-batch, and
    updates its running statistics once per micro-batch.
    """
    if num_micro_batches == 1:
        return grad_fn

    def accumulated(params: Tree, batch_stats: Tree, batch: Tree) -> Any:
        micro_batches = jax.tree.map(lambda x: x.reshape(num_micro_batches, -1, *x.shape[1:]), batch)

        def add(carry: Any, micro_batch: Tree) -> tuple[Any, None]:
            stats, total = carry
            grads, (stats, metrics) = grad_fn(params, stats, micro_batch)
            return (stats, jax.tree.map(jnp.add, total, (grads, metrics))), None

        first = jax.tree.map(lambda x: x[0], micro_batches)
        shapes = jax.eval_shape(grad_fn, params, batch_stats, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][1]))
        # On a CPU, XLA convolutions inside loops are many times slower.
        unroll = num_micro_batches if jax.default_backend() == "cpu" else 1
        (stats, total), _ = jax.lax.scan(add, (batch_stats, zeros), micro_batches, unroll=unroll)
        grads, metrics = jax.tree.map(lambda x: x / num_micro_batches, total)
        return grads, (stats, metrics)

    return accumulated


def sam_point(params: Tree, grads: Tree, radius: jax.Array) -> Tree:
    """Returns the parameters after the ascent step of SAM: w + rho g / ||g|| (Foret et al. 2021, equation 2).

    `radius` is rho, a scalar. The norm is over all leaves. The gradient does not include weight decay.
    """
    norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads)))
    scale = radius / (norm + 1e-12)  # in float32, squares of smaller norms underflow to zero
    return jax.tree.map(lambda leaf, grad: leaf + scale * grad, params, grads)


def running_mean(average: Tree, values: Tree, decay: jax.Array, count: jax.Array) -> Tree:
    """Returns the bias-corrected exponential moving average of T = `count` trees.

    Value t has a weight proportional to decay^(T - t), and the weights sum to 1. So the average is biased neither
    toward zero nor toward the first value. It equals the bias-corrected mean of Adam (Kingma & Ba 2015, section 3). In
    each update, the weight of the old average is decay (1 - decay^(T - 1)) / (1 - decay^T): 0 at T = 1, close to
    (T - 1) / T at first, and `decay` in the limit.

    Args:
      average: the average of the first T - 1 trees; it has no effect at T = 1.
      values: the last tree, of the same structure and shapes.
      decay: float32 scalar between 0 and 1.
      count: integer scalar T.
    """
    log, count = jnp.log(decay), count.astype(decay.dtype)
    old_weight = decay * jnp.expm1((count - 1) * log) / jnp.expm1(count * log)
    return jax.tree.map(lambda old, new: old_weight * old + (1 - old_weight) * new, average, values)
