"""In which numbers networks compute: true float32, float32 with tf32 products, or bfloat16.

JAX's own default rounds the factors of float32 products on a GPU (to tf32) and on a TPU (to bfloat16); jaxft's does
not. Parameters, batch-norm statistics, optimizer states, the classifier and the loss are float32 always.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

Precision = Literal["float32", "tf32", "bfloat16"]


def products(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which the products of float32 arrays are computed in `precision`.

    tf32 is what an NVIDIA GPU has (10 bits of mantissa); a TPU takes three bfloat16 products in its place, and a CPU
    true float32. With bfloat16, arrays that are float32 still have true products.
    """
    return jax.default_matmul_precision("tensorfloat32" if precision == "tf32" else "highest")


def true_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` with true float32 products, whatever JAX's default on the device; for functions to compile."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with products("float32"):
            return function(*args, **kwargs)

    return run


def compute_dtype(precision: Precision, dtype: Any) -> Any:
    """Returns the dtype in which the layers of a network compute an input of `dtype`."""
    return jnp.bfloat16 if precision == "bfloat16" else dtype


def at_least_float32(x: jax.Array) -> jax.Array:
    """Returns `x` as float32 where it has fewer bits: for sums over many values, and for what is kept in float32."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def in_dtype_of_input(x: Any, *params: Any, dtype: Any = None, **_: Any) -> list[Any]:
    """Returns a layer's input and its parameters in the dtype of the input (`promote_dtype` of Flax's layers)."""
    return [x, *(None if leaf is None else leaf.astype(x.dtype) for leaf in params)]
