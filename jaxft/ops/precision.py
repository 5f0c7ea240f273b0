"""Precision of networks: true float32, float32 with tf32 products, or bfloat16.

The default of JAX rounds the factors of float32 products on a GPU (to tf32) and on a TPU (to bfloat16); the default of
jaxft does not. Parameters, batch-norm statistics, optimizer states, the classifier and the loss are always float32.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

Precision = Literal["float32", "tf32", "bfloat16"]


def products(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Returns a context that sets the precision of products of float32 arrays.

    With 'tf32', an NVIDIA GPU uses tf32 (10 bits of mantissa), a TPU uses three bfloat16 products, and a CPU uses
    float32. With 'float32' and 'bfloat16', products of float32 arrays are true float32 products.
    """
    return jax.default_matmul_precision("tensorfloat32" if precision == "tf32" else "highest")


def true_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` with true float32 products on all devices. Apply it before `jax.jit`."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with products("float32"):
            return function(*args, **kwargs)

    return run


def compute_dtype(precision: Precision, dtype: Any) -> Any:
    """Returns the dtype in which the layers of a network compute, for an input of `dtype`."""
    return jnp.bfloat16 if precision == "bfloat16" else dtype


def at_least_float32(x: jax.Array) -> jax.Array:
    """Returns `x` of any shape, converted to float32 if its dtype has fewer bits."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def in_dtype_of_input(x: Any, *params: Any, dtype: Any = None, **_: Any) -> list[Any]:
    """Returns `x` and the parameters of a layer in the dtype of `x`: an argument `promote_dtype` for Flax layers."""
    return [x, *(None if leaf is None else leaf.astype(x.dtype) for leaf in params)]
