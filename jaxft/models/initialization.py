"""Freshly drawn variables of a network, whole or of its head."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.models.network import Network

Variables = dict[str, Any]


def init_variables(model: Network, key: Any, size_px: int) -> Variables:
    """Returns freshly drawn variables of `model` for images of `size_px`."""
    return make_init(model, size_px)(key)


def init_head(model: Network, key: Any, size_px: int) -> Variables:
    """Returns the variables of the head, drawn as `init_variables` draws them; compiles in a tenth of the time."""
    return make_init_head(model, size_px)(key)


@functools.cache
def make_init(model: Network, size_px: int) -> Callable[[Any], Variables]:
    """Returns the compiled function from a key to variables for images of `size_px`."""
    images = (1, size_px, size_px, 3)

    def draw_all(key: Any) -> Variables:
        return model.init(key, jnp.zeros(images, jnp.float32))

    return _jit_once(draw_all)


@functools.cache
def make_init_head(model: Network, size_px: int) -> Callable[[Any], Variables]:
    """Returns the compiled function from a key to the head's variables for images of `size_px`."""
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    x = jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, stop=model.feature_block)[0], jax.random.key(0), images
    )

    def draw_head(key: Any) -> Variables:
        return model.init(key, jnp.zeros(x.shape, x.dtype), start=model.head)

    return _jit_once(draw_head)


def _jit_once(function: Callable[[Any], Variables]) -> Callable[[Any], Variables]:
    """Returns a compiled function that will run once: optimized by a CPU's XLA, it would take four times as long."""
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)
