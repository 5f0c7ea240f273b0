"""Networks of a stem, stages of blocks, and a head: the names of their units."""

import functools
from typing import ClassVar

from jaxft.models.network import Network


class StagedNetwork(Network):
    """A network of a stem, stages of residual blocks, and the units from there to the head.

    A family declares `stage_blocks`, and `top_units` where other units than a pool and the head follow the stages.
    """

    top_units: ClassVar[tuple[str, ...]] = ("pool", "head")

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        """Returns the number of blocks of each stage."""
        raise AttributeError(type(self).__name__)

    @property
    def blocks(self) -> tuple[str, ...]:
        return _units(self.stage_blocks, self.top_units)

    @property
    def residual_blocks(self) -> tuple[str, ...]:
        return tuple(block for block in self.blocks if "/" in block)


@functools.cache
def _units(stage_blocks: tuple[int, ...], top_units: tuple[str, ...]) -> tuple[str, ...]:
    blocks = (f"stage{s}/block{b + 1}" for s, n in enumerate(stage_blocks, 1) for b in range(n))
    return ("stem", *blocks, *top_units)
