"""Which features of an image are meant: a pooling of what leaves a block."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from jaxft.ops.pooling import POOLINGS


@dataclass(frozen=True)
class FeatureSpec:
    """The features that a pooling makes of the output of a block.

    Attributes:
      block: the block.
      pooling: name of the pooling.
      below: for a pooling of two maps, the block whose output is the lower one.
    """

    block: str
    pooling: str
    below: str | None = None

    @property
    def blocks(self) -> tuple[str, ...]:
        """Returns the blocks whose outputs are needed, the lower one first."""
        return (self.block,) if self.below is None else (self.below, self.block)

    def features(self, outputs: Mapping[str, jax.Array]) -> jax.Array:
        """Returns [n, features] of the outputs of blocks for n images."""
        x = outputs[self.block]
        x = x if x.ndim == 4 else x.reshape(len(x), 1, 1, -1)
        pool = POOLINGS[self.pooling].value.apply
        return pool(x) if self.below is None else pool(outputs[self.below], x)
