"""Networks with a stem, stages of blocks, and a head."""

import functools
from typing import ClassVar

from jaxft.models.network import Network

MOST_LAYERS = 2_000  # depth and width in the name of a network; He et al. 2016 train 1,202 layers


class StagedNetwork(Network):
    """A network with a stem, stages of residual blocks, and a few blocks on top, the last of them the head.

    A family declares `stage_blocks`. It also declares `top_blocks` if the blocks on top are not just a pool and a head.
    """

    top_blocks: ClassVar[tuple[str, ...]] = ("pool", "head")

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        """Returns the number of blocks in each stage.

        Raises:
          AttributeError: the family does not declare them.
        """
        raise AttributeError(type(self).__name__)

    @property
    def blocks(self) -> tuple[str, ...]:
        return _block_names(self.stage_blocks, self.top_blocks)

    @property
    def residual_blocks(self) -> tuple[str, ...]:
        return tuple(block for block in self.blocks if "/" in block)


@functools.cache
def _block_names(stage_blocks: tuple[int, ...], top_blocks: tuple[str, ...]) -> tuple[str, ...]:
    in_stages = (f"stage{s}/block{b + 1}" for s, n in enumerate(stage_blocks, 1) for b in range(n))
    return ("stem", *in_stages, *top_blocks)
