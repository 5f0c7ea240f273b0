"""Random changes of what a network computes in training: dropped inputs of the head, skipped residual branches."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dropout(NamedTuple):
    """Dropout of the head's inputs: its key, the fraction that is dropped, and the images' places in the batch [n]."""

    key: jax.Array
    rate: jax.Array
    positions: jax.Array


class Noise(NamedTuple):
    """The random changes in a forward pass.

    `dropout` acts on the inputs of the head. `branch_factors` multiply residual branches, {block: factor}.
    """

    dropout: Dropout | None = None
    branch_factors: Mapping[str, jax.Array] | None = None


class NoiseKey(NamedTuple):
    """What noise is drawn from: the key of a step, and the places in the batch [n] of the images at work.

    A batch has one set of branch factors, and each image values of its own that are dropped, so that it does not matter
    in how many micro-batches a batch is processed.
    """

    key: jax.Array
    positions: jax.Array


def drop(x: jax.Array, dropout: Dropout) -> jax.Array:
    """Returns `x: [n, ...]` with a fraction `rate` of its values set to zero and the others divided by 1 - rate.

    Dropout (Srivastava et al. 2014, section 10: scaled in training, so that nothing changes in evaluation). Which
    values are dropped depends only on the key and on an image's place in the batch.
    """
    key, rate, positions = dropout

    def uniform(position: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, position), x.shape[1:], jnp.float32)

    return jnp.where(jax.vmap(uniform)(positions) >= rate, x / (1 - rate), 0.0)
