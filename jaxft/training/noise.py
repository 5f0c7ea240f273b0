"""Random noise in the forward pass of training: dropout of the inputs of the head, skipped residual branches."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dropout(NamedTuple):
    """Dropout of the inputs of the head.

    Attributes:
      key: random key of the step.
      rate: scalar, the fraction that is set to zero.
      positions: [n] int32, positions of the images in the whole batch.
    """

    key: jax.Array
    rate: jax.Array
    positions: jax.Array


class Noise(NamedTuple):
    """The noise of a forward pass.

    Attributes:
      dropout: dropout of the inputs of the head; None without dropout.
      branch_factors: {block: scalar that multiplies its residual branch}; None without stochastic depth.
    """

    dropout: Dropout | None = None
    branch_factors: Mapping[str, jax.Array] | None = None


class NoiseKey(NamedTuple):
    """The source of noise: the key of a step, and the positions [n] of the images of a micro-batch in the whole batch.

    Branch factors depend only on the key, and dropout depends only on the key and the position. So the noise does not
    depend on the number of micro-batches.
    """

    key: jax.Array
    positions: jax.Array


def drop(x: jax.Array, dropout: Dropout) -> jax.Array:
    """Returns `x: [n, ...]` with a fraction `rate` of its values set to zero, and the others divided by 1 - rate.

    Dropout (Srivastava et al. 2014, section 10): values are scaled in training, so evaluation is unchanged.
    """
    key, rate, positions = dropout

    def uniform(position: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, position), x.shape[1:], jnp.float32)

    return jnp.where(jax.vmap(uniform)(positions) >= rate, x / (1 - rate), 0.0)
