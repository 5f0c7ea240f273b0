"""The layers that families share, compared with XLA."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.models.layers import max_pool


def test_max_pool_by_hand_sends_the_gradient_to_the_first_of_equal_maxima():
    """Two squares of 2x2 of [[1, 3, 5, 5], [3, 2, 4, 0]]: maxima 3 and 5, each twice."""
    x = jnp.array([[1.0, 3, 5, 5], [3, 2, 4, 0]]).reshape(1, 2, 4, 1)
    out, back = jax.vjp(lambda x: max_pool(x, 2, 2, ((0, 0), (0, 0))), x)
    assert out.ravel().tolist() == [3, 5]
    assert back(jnp.array([10.0, 20]).reshape(out.shape))[0].reshape(2, 4).tolist() == [[0, 10, 20, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    "shape, size, stride, padding",
    [
        ((2, 8, 8, 3), 3, 2, ((1, 1), (1, 1))),
        ((2, 9, 7, 3), 3, 2, ((0, 1), (0, 0))),
        ((2, 7, 8, 3), 3, 2, ((0, 0), (0, 1))),
        ((2, 6, 5, 3), 2, 1, ((1, 0), (0, 1))),
        ((2, 9, 9, 3), 2, 3, ((0, 0), (0, 0))),
        ((1, 7, 7, 3), 5, 3, ((2, 2), (2, 1))),
    ],
)
def test_max_pool_and_its_gradient_equal_those_of_xla(shape, size, stride, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 5, (3, *shape)), jnp.float32)  # with many equal values

    def values_and_grads(pool):
        def loss(x):
            return (pool(x) * jnp.arange(1.0, 1 + pool(x).size).reshape(pool(x).shape)).sum()

        return [jax.jit(jax.value_and_grad(loss))(x[0]), jax.jit(jax.vmap(jax.value_and_grad(loss)))(x)]

    ours = values_and_grads(lambda x: max_pool(x, size, stride, padding))
    expected = values_and_grads(lambda x: nn.max_pool(x, (size, size), (stride, stride), padding))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
