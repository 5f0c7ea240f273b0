"""Arrays of the source network that regularizers need: weights, logits and feature maps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from jaxft.core.paths import unflatten
from jaxft.models import Network


@dataclass(frozen=True)
class SourceNeeds:
    """The arrays of the source that a regularizer needs.

    Attributes:
      params: names of parameters.
      maps: blocks whose outputs are needed for the images of each batch.
      logits: whether the logits of the source head before training are needed.
    """

    params: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    logits: bool = False

    def __bool__(self) -> bool:
        return bool(self.params or self.maps or self.logits)


def all_needs(needs: Iterable[SourceNeeds], model: Network) -> SourceNeeds:
    """Returns the union of the needs of several regularizers; blocks are in the order of the network."""
    needs = list(needs)
    maps = {block for need in needs for block in need.maps}
    return SourceNeeds(
        params=tuple(dict.fromkeys(name for need in needs for name in need.params)),
        maps=tuple(sorted(maps, key=model.blocks.index)),
        logits=any(need.logits for need in needs),
    )


class SourceArrays(NamedTuple):
    """The arrays of the source that the regularizers of a phase need, shared by all trials of a group.

    Attributes:
      params, batch_stats: leaves of the source by name, including its head.
      logits: [m, classes of the source], logits of the source head for training images, before training.
      logit_rows: [rows] int32, the row of `logits` for each image of the phase.
      maps: {block: [k, h, w, c]}, feature maps of the source. If None, images vary, and each step runs a forward pass
        of the source.
      map_rows: [rows] int32, the row of `maps` for each image of the phase.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    logits: Any = None
    logit_rows: Any = None
    maps: dict[str, Any] | None = None
    map_rows: Any = None


def source_network(model: Network, params: Mapping[str, Any]) -> Network:
    """Returns `model` with the number of classes of the head in `params`."""
    head_leaf = next(leaf for name, leaf in params.items() if model.in_head(name))
    return model.clone(num_classes=head_leaf.shape[-1])


def source_maps(
    source_arrays: SourceArrays,
    model: Network,
    prefix: str | None,
    blocks: Iterable[str],
    batch: tuple[jax.Array, jax.Array],
) -> dict[str, jax.Array]:
    """Returns {block: outputs [n, ...]} of the source for the images of a batch.

    Args:
      source_arrays: the arrays of the source.
      model: the network.
      prefix: the last block of the frozen prefix; None without a prefix.
      blocks: the blocks, in the order of the network.
      batch: (input [n, ...] of the first block above the prefix, rows [n] of the images).
    """
    x, rows = batch
    if source_arrays.maps is not None and source_arrays.map_rows is not None:
        map_rows = source_arrays.map_rows[rows]
        return {block: maps[map_rows] for block, maps in source_arrays.maps.items()}
    variables = {"params": unflatten(source_arrays.params), "batch_stats": unflatten(source_arrays.batch_stats)}
    maps, after = {}, prefix
    for block in blocks:
        maps[block] = x = model.apply(variables, x, after=after, stop=block)
        after = block
    return maps
