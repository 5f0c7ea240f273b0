"""Our networks' outputs, gradients and statistics under the keys of the torch reference."""

import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.models import Network
from jaxft.weights import to_tensors

# The reference's module whose output is that of each unit: a fire module, or the pool that our unit ends with.
SQUEEZENET_FEATURES = {"squeezenet1_0": (2, 3, 4, 6, 7, 8, 9, 11, 12), "squeezenet1_1": (2, 3, 5, 6, 8, 9, 10, 11, 12)}


def modules_of(model: Network) -> dict[str, str]:
    """Returns the reference's name for the module whose output is that of each unit before pool and head."""
    blocks = model.blocks[:-1]
    if model.architecture in SQUEEZENET_FEATURES:
        return {block: f"features.{i}" for block, i in zip(blocks, SQUEEZENET_FEATURES[model.architecture])}
    stages = (re.fullmatch(r"stage(\d)/block(\d+)", block) for block in blocks[1:] if block != "pool")
    return {"stem": "maxpool"} | {match[0]: f"layer{match[1]}.{int(match[2]) - 1}" for match in stages}


def make_inference(model: Network) -> Any:
    """Returns a compiled function of variables and images to `act/*`, one for each unit, and `logits`."""
    modules = modules_of(model)
    last = list(modules)[-1]  # above it is the pool, or the head

    @jax.jit
    def inference(variables, x):
        outputs = {}
        for below, block in itertools.pairwise((None, *modules)):
            outputs[f"act/{modules[block]}"] = x = model.apply(variables, x, after=below, stop=block)
        return outputs | {"logits": model.apply(variables, x, after=last)}

    return inference


def training_step(model: Network, variables: dict[str, Any], images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns `train_logits`, `grad/*` and `stat/*` of one step in float64, in torch's layout.

    The loss is the mean cross-entropy with the labels 0 .. n-1.
    """
    with jax.enable_x64(True):
        wide = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)))
        params, rest = wide(variables["params"]), wide({"batch_stats": variables.get("batch_stats", {})})

        def loss(params, rest, images):
            logits, updated = model.apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"])
            labels = jnp.arange(len(images))
            shares = jax.nn.log_softmax(logits)
            return -jnp.take_along_axis(shares, labels.reshape(-1, 1), axis=1).mean(), (logits, updated)

        step = jax.jit(jax.grad(loss, has_aux=True))
        grads, (logits, updated) = step(params, rest, jnp.asarray(images, jnp.float64))
        results = {"train_logits": np.asarray(logits)}
        results |= {f"grad/{name}": gradient for name, gradient in to_tensors(model, {"params": grads}).items()}
        results |= {f"stat/{name}": statistic for name, statistic in to_tensors(model, updated).items()}
    assert all(values.dtype == np.float64 for values in results.values())
    return results
