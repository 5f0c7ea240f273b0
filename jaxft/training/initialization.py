"""The weights below the head at the start of a trial."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxft.config import Training
from jaxft.core.paths import flatten
from jaxft.models import Network, block_of
from jaxft.models.initialization import init_head, init_variables
from jaxft.training.layer_selection import transferred_blocks


def initial_variables(
    model: Network, training: Training, key: jax.Array, size_px: int, source: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """Returns the flat `params` and `batch_stats` at the start, with a head drawn from `key` (LeCun's scheme).

    Copied units have the source's parameters and statistics. All else is drawn as the architecture is from scratch, or
    of init 'mean_var' each parameter i.i.d. normal with the mean and standard deviation of its leaf in the source, and
    with the statistics of a new network. New units are always drawn as from scratch.

    Args:
      source: the leaves below its head by name, with their collection (`params/stem/conv/kernel`); none: no source.
    """
    if source is None:
        return collections(flatten(init_variables(model, key, size_px)))
    old = {name: leaf for name, leaf in source.items() if not name.startswith("counters/")}
    names = [name.partition("/")[2] for name in old if name.startswith("params/")]
    transferred = set(transferred_blocks(training, model, names))
    pretrained = {
        name: leaf for name, leaf in old.items() if block_of(name.partition("/")[2], model.blocks) in transferred
    }
    if len(pretrained) == len(old) and training.initialization.grow == "none":
        return collections(pretrained | flatten(init_head(model, key, size_px)))
    fresh = flatten(init_variables(model, key, size_px))
    if training.initialization.start == "mean_var":
        params = {name: leaf for name, leaf in old.items() if name.startswith("params/") and name not in pretrained}
        for name, leaf in params.items():
            fresh[name] = draw_mean_var(leaf, jax.random.fold_in(key, zlib.crc32(name.encode())))
    return collections(fresh | pretrained)


def draw_mean_var(leaf: Any, key: jax.Array) -> jax.Array:
    """Returns values i.i.d. normal with the mean and standard deviation of those of `leaf` (Raghu et al. 2019)."""
    values = np.asarray(leaf, np.float64)
    mean, std = np.float32(values.mean()), np.float32(values.std())
    return mean + std * jax.random.normal(key, values.shape)


def collections(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the `params` and the `batch_stats` among leaves that are named with their collection, by their own names.

    Counters, which no result depends on, are left out.
    """
    by_collection: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, leaf in flat.items():
        collection, _, leaf_name = name.partition("/")
        if collection in by_collection:
            by_collection[collection][leaf_name] = leaf
    return by_collection
