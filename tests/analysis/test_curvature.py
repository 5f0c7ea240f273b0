"""Curvature of quadratic losses, whose Hessian is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.analysis.curvature import hessian_trace, hessian_vector_product, top_eigenvalues

RNG = np.random.default_rng(1)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def quadratic(size):
    matrix = RNG.normal(size=(size, size))
    matrix = ((matrix + matrix.T) / 2).astype(np.float32)

    def loss(params):
        x = jnp.concatenate([params["a"].ravel(), params["b"]])
        return x @ matrix @ x / 2

    return matrix, loss, {"a": jnp.asarray(normal(2, 3)), "b": jnp.asarray(normal(size - 6))}


@pytest.mark.parametrize("size", [8, 60])
def test_eigenvalues_of_a_quadratic_are_those_of_its_matrix(size):
    matrix, loss, params = quadratic(size)
    vector = jax.tree.map(jnp.ones_like, params)
    product = hessian_vector_product(loss, params, vector)
    flat_product = np.concatenate([product["a"].ravel(), product["b"]])
    np.testing.assert_allclose(flat_product, matrix.sum(1), rtol=1e-4, atol=1e-4)
    found = top_eigenvalues(loss, params, 3, tolerance=1e-6)
    values, _ = np.linalg.eigh(matrix.astype(np.float64))
    np.testing.assert_allclose(found.values, values[::-1][:3], rtol=1e-4)
    top = np.concatenate([found.vectors[0]["a"].ravel(), found.vectors[0]["b"]])
    np.testing.assert_allclose(matrix @ top, found.values[0] * top, atol=1e-3)


def test_trace_of_a_quadratic():
    diagonal = np.arange(1, 11, dtype=np.float32)
    params = {"w": jnp.ones(10)}
    exact = hessian_trace(lambda p: (diagonal * p["w"] ** 2).sum() / 2, params, jax.random.key(0), 4)
    assert exact.value == pytest.approx(55) and exact.standard_error == pytest.approx(0, abs=1e-4)
    matrix, loss, params = quadratic(20)
    estimate = hessian_trace(loss, params, jax.random.key(0), 400)
    assert abs(estimate.value - np.trace(matrix)) < 4 * estimate.standard_error
    # The variance of v' H v is twice the sum of the squared entries outside of the diagonal.
    variance = 2 * ((matrix - np.diag(np.diag(matrix))) ** 2).sum()
    assert estimate.standard_error == pytest.approx(np.sqrt(variance / 400), rel=0.2)
    assert np.isnan(hessian_trace(loss, params, jax.random.key(0), 1).standard_error)


def test_curvature_without_a_value():
    _, loss, params = quadratic(8)
    with pytest.raises(ValueError, match="between 1 and the number of parameters, 8"):
        top_eigenvalues(loss, params, 9)
    with pytest.raises(ValueError, match="not finite"):
        top_eigenvalues(lambda p: jnp.log(p["b"] * 0).sum(), params, 1)
    with pytest.raises(ValueError, match="`num_draws` is 0"):
        hessian_trace(loss, params, jax.random.key(0), 0)
