"""What regularizers need of the source network: its weights, its logits and its feature maps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from jaxft.core.paths import unflatten
from jaxft.models import Network


@dataclass(frozen=True)
class SourceNeeds:
    """What a regularizer needs of the source.

    Attributes:
      params: names of parameters.
      maps: blocks whose outputs are needed, for the images of each batch.
      logits: whether the outputs of the source's own head are needed, as they are before training.
    """

    params: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    logits: bool = False

    def __bool__(self) -> bool:
        return bool(self.params or self.maps or self.logits)


def all_needs(needs: Iterable[SourceNeeds], model: Network) -> SourceNeeds:
    """Returns what several regularizers need together, blocks in the order of the network."""
    every = list(needs)
    maps = {block for each in every for block in each.maps}
    return SourceNeeds(
        tuple(dict.fromkeys(name for each in every for name in each.params)),
        tuple(sorted(maps, key=model.blocks.index)),
        any(each.logits for each in every),
    )


class SourceArrays(NamedTuple):
    """The arrays of the source that the regularizers of a phase need, shared by all trials of a group.

    Attributes:
      params, batch_stats: leaves of the source by name, those of its own head too.
      logits: [m, classes of the source], outputs of its head for training images, before training.
      logit_rows: [rows] int32, the row of `logits` that belongs to each of the phase's images.
      maps: {block: [k, h, w, c]}, its feature maps. None if images vary: then the source runs at each step, which is
        a further forward pass.
      map_rows: [rows] int32, as `logit_rows`.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    logits: Any = None
    logit_rows: Any = None
    maps: dict[str, Any] | None = None
    map_rows: Any = None


def source_network(model: Network, params: Mapping[str, Any]) -> Network:
    """Returns `model` with the number of classes of the head among the leaves `params`."""
    in_head = next(leaf for name, leaf in params.items() if model.in_head(name))
    return model.clone(num_classes=in_head.shape[-1])


def source_maps(
    source_arrays: SourceArrays,
    model: Network,
    prefix: str | None,
    blocks: Iterable[str],
    batch: tuple[jax.Array, jax.Array],
) -> dict[str, jax.Array]:
    """Returns the source's outputs of `blocks`, in the order of the network, for the images of a batch.

    Args:
      prefix: the last block of the frozen prefix.
      batch: the input of the first block above the prefix, and the rows of the images.
    """
    x, rows = batch
    if source_arrays.maps is not None and source_arrays.map_rows is not None:
        at = source_arrays.map_rows[rows]
        return {block: maps[at] for block, maps in source_arrays.maps.items()}
    variables = {"params": unflatten(source_arrays.params), "batch_stats": unflatten(source_arrays.batch_stats)}
    start = 0 if prefix is None else model.blocks.index(prefix) + 1
    maps = {}
    for block in blocks:
        stop = model.blocks.index(block)
        maps[block] = x = model.apply(variables, x, start=model.blocks[start], stop=block)
        start = stop + 1
    return maps
