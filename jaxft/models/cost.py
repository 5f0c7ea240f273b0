"""How large the units of a network are, and how much they compute."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxft.core.paths import flatten, layer_of
from jaxft.models.network import Network, block_of
from jaxft.models.structure import structure_of


@dataclass(frozen=True)
class BlockCost:
    """A unit of a network: the shape of its output for one image, its parameters, its multiply-accumulates."""

    name: str
    output: tuple[int, ...]
    num_params: int
    num_macs: int


@functools.lru_cache(maxsize=256)
def block_costs(model: Network, size_px: int) -> tuple[BlockCost, ...]:
    """Returns the units of `model` in order, for one image of `size_px`, without computing anything.

    Batch norm's running statistics are no parameters. Multiply-accumulates are those of convolutions and dense layers.
    A kernel is used once for each position of its layer's output, so they are its size times the positions; how a
    convolution is computed does not matter. The kernel of a grouped convolution has the inputs of one group only.
    """
    run = functools.partial(model.init_with_output, mutable=True, capture_intermediates=True)
    _, variables = jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32))
    shapes = {name.removesuffix("/__call__/0"): x.shape[1:] for name, x in flatten(variables["intermediates"]).items()}
    kernels = structure_of(model, size_px).kernels
    num_params, num_macs = dict.fromkeys(model.blocks, 0), dict.fromkeys(model.blocks, 0)
    for name, leaf in flatten(variables["params"]).items():
        block = block_of(name, model.blocks)
        num_params[block] += leaf.size
        if name in kernels:
            num_macs[block] += leaf.size * math.prod(shapes[layer_of(name)][:-1])
    return tuple(BlockCost(block, shapes[block], num_params[block], num_macs[block]) for block in model.blocks)
