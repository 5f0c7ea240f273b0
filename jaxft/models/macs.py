"""How much a network computes."""

import functools
import math

import jax
import jax.numpy as jnp

from jaxft.models.contract import Network, unit_of
from jaxft.paths import flatten, layer_of


@functools.lru_cache(maxsize=256)
def count_macs(model: Network, size_px: int) -> dict[str, int]:
    """Returns the multiply-accumulates of convolutions and dense layers for one image of `size_px`, by unit.

    A kernel is used once for each position of its layer's output, so its multiply-accumulates are their product; how a
    convolution is computed does not matter. The kernel of a grouped convolution has the inputs of one group only.
    """
    run = functools.partial(model.init_with_output, mutable=True, capture_intermediates=True)
    _, variables = jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32))
    shapes = {name.removesuffix("/__call__/0"): x.shape[1:] for name, x in flatten(variables["intermediates"]).items()}
    macs = dict.fromkeys(model.units, 0)
    for name, leaf in flatten(variables["params"]).items():
        if name.endswith("/kernel"):
            macs[unit_of(name, model.units)] += leaf.size * math.prod(shapes[layer_of(name)][:-1])
    return macs
