"""Size and computational cost of the blocks of a network."""

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
    """Cost of a block: shape of its output for one image, number of parameters, number of multiply-accumulates."""

    name: str
    output: tuple[int, ...]
    num_params: int
    num_macs: int


@functools.lru_cache(maxsize=256)
def block_costs(model: Network, size_px: int) -> tuple[BlockCost, ...]:
    """Returns the cost of each block of `model`, in order, for one image of `size_px`, without running the network.

    Batch-norm statistics do not count as parameters. Only convolutions and dense layers have multiply-accumulates. The
    number is the size of the kernel times the number of positions in the output, whichever algorithm computes it. The
    kernel of a grouped convolution has the input channels of one group.
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
