"""Average pooling of the inputs of a head."""

import jax


def pooled(x: jax.Array) -> jax.Array:
    """Returns [n, features]: the mean over the positions of a map [n, h, w, features], or `x: [n, features]` as is."""
    return x.reshape(len(x), -1, x.shape[-1]).mean(1)
