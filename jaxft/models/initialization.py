"""Random initialization of a whole network, or of its head."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.models.network import Network

Variables = dict[str, Any]


def init_variables(model: Network, key: Any, size_px: int) -> Variables:
    """Returns randomly initialized variables of `model` for images of `size_px` x `size_px`."""
    return make_init(model, size_px)(key)


def init_head(model: Network, key: Any, size_px: int) -> Variables:
    """Returns randomly initialized variables of the head.

    The values equal those of `init_variables` with the same key; this function compiles in a tenth of the time.
    """
    return make_init_head(model, size_px)(key)


@functools.cache
def make_init(model: Network, size_px: int) -> Callable[[Any], Variables]:
    """Returns a compiled function from a key to the variables for images of `size_px` x `size_px`."""
    shape = (1, size_px, size_px, 3)

    def init_all(key: Any) -> Variables:
        return model.init(key, jnp.zeros(shape, jnp.float32))

    return _jit_once(init_all)


@functools.cache
def make_init_head(model: Network, size_px: int) -> Callable[[Any], Variables]:
    """Returns a compiled function from a key to the variables of the head for images of `size_px` x `size_px`."""
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    features = jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, stop=model.feature_block)[0], jax.random.key(0), images
    )

    def init_new_head(key: Any) -> Variables:
        return model.init(key, jnp.zeros(features.shape, features.dtype), after=model.feature_block)

    return _jit_once(init_new_head)


def _jit_once(function: Callable[[Any], Variables]) -> Callable[[Any], Variables]:
    """Returns `function` under `jit`, with little optimization on a CPU.

    The function runs once per process, and full optimization would make compilation on a CPU four times as long.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)
