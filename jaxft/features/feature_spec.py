"""The description of features: a pooling of the output of a block."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from jaxft.ops.pooling import POOLINGS


@dataclass(frozen=True)
class FeatureSpec:
    """The features that a pooling computes from the output of a block.

    Attributes:
      block: the block.
      pooling: name of the pooling.
      below: for a pooling of two feature maps, the lower block.
    """

    block: str
    pooling: str
    below: str | None = None

    @property
    def blocks(self) -> tuple[str, ...]:
        """Returns the blocks whose outputs are needed, from the bottom up."""
        return (self.block,) if self.below is None else (self.below, self.block)

    def features(self, outputs: Mapping[str, jax.Array]) -> jax.Array:
        """Returns [n, features] for `outputs: {block: [n, h, w, c] or [n, c]}`."""
        x = outputs[self.block]
        x = x if x.ndim == 4 else x.reshape(len(x), 1, 1, -1)
        pool = POOLINGS[self.pooling].value.apply
        return pool(x) if self.below is None else pool(outputs[self.below], x)
