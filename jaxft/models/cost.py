"""How large the units of a network are, and how much they compute."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxft.core.paths import flatten, layer_of
from jaxft.models.network import Network, unit_of
from jaxft.models.structure import structure_of


@dataclass(frozen=True)
class UnitCost:
    """A unit of a network: the shape of its output for one image, its parameters, its multiply-accumulates."""

    name: str
    output: tuple[int, ...]
    num_params: int
    num_macs: int


@functools.lru_cache(maxsize=256)
def unit_costs(model: Network, size_px: int) -> tuple[UnitCost, ...]:
    """Returns the units of `model` in order, for one image of `size_px`, without computing anything.

    Batch norm's running statistics are no parameters. Multiply-accumulates are those of convolutions and dense layers.
    A kernel is used once for each position of its layer's output, so they are its size times the positions; how a
    convolution is computed does not matter. The kernel of a grouped convolution has the inputs of one group only.
    """
    run = functools.partial(model.init_with_output, mutable=True, capture_intermediates=True)
    _, variables = jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32))
    shapes = {name.removesuffix("/__call__/0"): x.shape[1:] for name, x in flatten(variables["intermediates"]).items()}
    kernels = structure_of(model, size_px).kernels
    num_params, num_macs = dict.fromkeys(model.units, 0), dict.fromkeys(model.units, 0)
    for name, leaf in flatten(variables["params"]).items():
        unit = unit_of(name, model.units)
        num_params[unit] += leaf.size
        if name in kernels:
            num_macs[unit] += leaf.size * math.prod(shapes[layer_of(name)][:-1])
    return tuple(UnitCost(unit, shapes[unit], num_params[unit], num_macs[unit]) for unit in model.units)
