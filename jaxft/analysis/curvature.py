"""Curvature of a loss: Hessian-vector products, largest eigenvalues, and the trace of the Hessian."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

Loss = Callable[[Any], jax.Array]  # a differentiable function of parameters


class Eigenpairs(NamedTuple):
    """The largest eigenvalues of a Hessian, with eigenvectors.

    Attributes:
      values: [k], in descending order.
      vectors: k trees with the leaves and shapes of the parameters, of norm 1.
    """

    values: np.ndarray
    vectors: list[Any]


class Trace(NamedTuple):
    """An estimate of a trace.

    Attributes:
      value: the mean over the draws.
      standard_error: the standard deviation of the draws, divided by the square root of their number; nan for one draw.
    """

    value: float
    standard_error: float


def hessian_vector_product(loss: Loss, params: Any, vector: Any) -> Any:
    """Returns H v, a tree with the shapes of `params`, where H is the Hessian of `loss` at `params`.

    It differentiates the gradient in the direction v (forward over reverse), so it takes a few times as long as the
    gradient, and no memory for H.

    Args:
      loss: a differentiable function of the parameters, which returns a scalar.
      params: a tree of floating-point arrays of any shape.
      vector: v, a tree with the leaves and shapes of `params`.

    Reference: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """
    return jax.jvp(jax.grad(loss), (params,), (vector,))[1]


def top_eigenvalues(loss: Loss, params: Any, count: int = 1, tolerance: float = 1e-3, seed: int = 0) -> Eigenpairs:
    """Returns the `count` largest (most positive) eigenvalues of the Hessian of `loss` at `params`.

    It uses the implicitly restarted Lanczos method of ARPACK (`scipy.sparse.linalg.eigsh`). If there are at most 32
    parameters, or not more than `count` + 1, it computes the whole Hessian.

    Args:
      loss: a differentiable function of the parameters, which returns a scalar.
      params: a tree of floating-point arrays of any shape.
      count: the number of eigenvalues.
      tolerance: relative accuracy of the eigenvalues.
      seed: seed of the start vector.

    Raises:
      ValueError: `count` is below 1 or above the number of parameters, or a product with the Hessian is not finite.

    Reference: Lehoucq, Sorensen & Yang 1998, "ARPACK users' guide"; Ghorbani et al. 2019, "An investigation into neural
    net optimization via Hessian eigenvalue density", for networks.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    start, unravel = ravel_pytree(params)
    size = start.size
    if not 1 <= count <= size:
        raise ValueError(f"`count` is {count}; it must be between 1 and the number of parameters, {size}.")
    multiply = jax.jit(lambda at, v: ravel_pytree(hessian_vector_product(loss, unravel(at), unravel(v)))[0])

    def product(vector: np.ndarray) -> np.ndarray:
        result = np.asarray(multiply(start, jnp.asarray(vector.reshape(-1), start.dtype)), np.float64)
        if not np.isfinite(result).all():
            raise ValueError("a product with the Hessian is not finite; the loss or the parameters may be nan.")
        return result

    if size <= max(32, count + 1):
        hessian = np.stack([product(row) for row in np.eye(size)])
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    else:
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        first = np.random.default_rng(seed).normal(size=size)
        values, vectors = eigsh(operator, k=count, which="LA", tol=tolerance, v0=first)
    order = np.argsort(values)[::-1][:count]
    return Eigenpairs(values[order], [unravel(jnp.asarray(vectors[:, i], start.dtype)) for i in order])


def hessian_trace(loss: Loss, params: Any, key: jax.Array, num_draws: int = 100) -> Trace:
    """Returns an unbiased estimate of the trace of the Hessian of `loss` at `params`, with its standard error.

    The estimate is the mean of v' H v over vectors v of independent signs. It is exact for a diagonal Hessian.

    Args:
      loss: a differentiable function of the parameters, which returns a scalar.
      params: a tree of floating-point arrays of any shape.
      key: a key of JAX for the signs.
      num_draws: the number of vectors, at least 1.

    Raises:
      ValueError: `num_draws` is below 1.

    Reference: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
    splines".
    """
    if num_draws < 1:
        raise ValueError(f"`num_draws` is {num_draws}; it must be at least 1.")
    start, unravel = ravel_pytree(params)

    @jax.jit
    def draw(at: jax.Array, key: jax.Array) -> jax.Array:
        signs = jax.random.rademacher(key, (at.size,), at.dtype)
        return jnp.vdot(signs, ravel_pytree(hessian_vector_product(loss, unravel(at), unravel(signs)))[0])

    values = np.array([float(draw(start, each)) for each in jax.random.split(key, num_draws)])
    error = values.std(ddof=1) / np.sqrt(num_draws) if num_draws > 1 else np.nan
    return Trace(float(values.mean()), float(error))
