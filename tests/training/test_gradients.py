"""Micro-batches, the ascent step of SAM and running means: by hand and against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.training.gradients import in_micro_batches, running_mean, sam_point


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    """The loss is a mean of squares. The stand-in for batch-norm statistics counts the micro-batches."""
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.normal(size=(12, 3)), jnp.float32), jnp.asarray(rng.normal(size=12), jnp.float32)
    params = {"kernel": jnp.asarray(rng.normal(size=3), jnp.float32)}

    def loss(params, stats, batch):
        x, y = batch
        wrong = x @ params["kernel"] - y
        value = (wrong**2).mean()
        return value, (stats + 1, (value, (wrong > 0).mean()))

    grad_fn = jax.grad(loss, has_aux=True)
    whole, (_, (whole_loss, whole_share)) = grad_fn(params, 0, batch)
    for parts in (1, 2, 4, 12):
        grads, (count, (value, share)) = in_micro_batches(grad_fn, parts)(params, 0, batch)
        assert int(count) == parts
        np.testing.assert_allclose(value, whole_loss, rtol=1e-6)
        np.testing.assert_allclose(share, whole_share, rtol=1e-6)
        np.testing.assert_allclose(grads["kernel"], whole["kernel"], rtol=1e-6)


def test_sam_point_is_at_the_radius_along_the_gradient():
    """The norm of (3, 4, 12) over all leaves is 13."""
    params = {"a": jnp.array([1.0, 1.0]), "b": jnp.array([0.0])}
    point = sam_point(params, {"a": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])}, 0.26)
    np.testing.assert_allclose(point["a"], [1.06, 1.08], rtol=1e-6)
    np.testing.assert_allclose(point["b"], [0.24], rtol=1e-6)
    still = sam_point(params, jax.tree.map(jnp.zeros_like, params), 0.26)
    np.testing.assert_array_equal(still["a"], params["a"])


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_running_mean_equals_the_corrected_mean_of_optax(decay):
    values = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    tx = optax.ema(decay, debias=True)
    state, average = tx.init(jnp.zeros(4)), jnp.full(4, 1e6)  # the first value of the average has no weight
    for count, value in enumerate(values, 1):
        with jax.numpy_dtype_promotion("standard"):
            expected, state = tx.update(jnp.asarray(value), state)
        average = running_mean(average, jnp.asarray(value), jnp.float32(decay), jnp.int32(count))
        np.testing.assert_allclose(average, expected, rtol=3e-3 if decay > 0.99 else 1e-4, atol=1e-3)
    weights = decay ** np.arange(19, -1, -1.0)
    np.testing.assert_allclose(average, weights @ values / weights.sum(), rtol=1e-4, atol=1e-5)
