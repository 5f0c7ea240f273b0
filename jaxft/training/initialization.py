"""The initial weights of a trial."""

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
    """Returns the initial variables {'params': {name: leaf}, 'batch_stats': {name: leaf}}, with a random head (LeCun).

    Transferred blocks have the parameters and statistics of the source. Other blocks are initialized randomly, as for
    training from scratch. With start 'mean_var', each of their parameters is i.i.d. normal with the mean and standard
    deviation of its leaf in the source, and their statistics are those of a new network. New units of a grown network
    are always initialized as for training from scratch.

    Args:
      model: the network of the trial.
      training: the config of training.
      key: random key; it determines the head and all other random weights.
      size_px: height and width of an image, in pixels.
      source: leaves of the source below the head, named with their collection (`params/stem/conv/kernel`: [h, w, in,
        out]). If None, all weights are random.
    """
    if source is None:
        return split_collections(flatten(init_variables(model, key, size_px)))
    source = {name: leaf for name, leaf in source.items() if not name.startswith("counters/")}
    names = [name.partition("/")[2] for name in source if name.startswith("params/")]
    transferred = set(transferred_blocks(training, model, names))
    pretrained = {
        name: leaf for name, leaf in source.items() if block_of(name.partition("/")[2], model.blocks) in transferred
    }
    if len(pretrained) == len(source) and training.initialization.grow == "none":
        return split_collections(pretrained | flatten(init_head(model, key, size_px)))
    fresh = flatten(init_variables(model, key, size_px))
    if training.initialization.start == "mean_var":
        params = {name: leaf for name, leaf in source.items() if name.startswith("params/") and name not in pretrained}
        for name, leaf in params.items():
            fresh[name] = draw_mean_var(leaf, jax.random.fold_in(key, zlib.crc32(name.encode())))
    return split_collections(fresh | pretrained)


def draw_mean_var(leaf: Any, key: jax.Array) -> jax.Array:
    """Returns an array with the shape of `leaf`: i.i.d. normal with its mean and deviation (Raghu et al. 2019)."""
    values = np.asarray(leaf, np.float64)
    mean, std = np.float32(values.mean()), np.float32(values.std())
    return mean + std * jax.random.normal(key, values.shape)


def split_collections(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns {'params': {name: leaf}, 'batch_stats': {name: leaf}} of leaves that are named with their collection.

    Counters are left out, because no result depends on them.
    """
    by_collection: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, leaf in flat.items():
        collection, _, leaf_name = name.partition("/")
        if collection in by_collection:
            by_collection[collection][leaf_name] = leaf
    return by_collection
