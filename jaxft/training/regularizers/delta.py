"""DELTA (Li et al. 2019): a penalty on the distance of feature maps from the source's, weighted by channel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config import Training
from jaxft.config.fields import setting
from jaxft.config.training.regularization import RegularizerConfig
from jaxft.core.errors import UserError
from jaxft.core.registries import REGULARIZERS
from jaxft.features.prefix import output_shape
from jaxft.models import Network
from jaxft.training.regularizers.base import Regularizer, Scope, Term
from jaxft.training.regularizers.channel_attention import channel_attention
from jaxft.training.regularizers.context import StepContext
from jaxft.training.source import SourceNeeds
from jaxft.training.training_images import TrainingImages


@dataclass(frozen=True)
class DeltaConfig(RegularizerConfig):
    """DELTA (Li et al. 2019): a penalty on the distance of feature maps from the source's, weighted by channel."""

    strength: float = setting(
        0.0,
        "DELTA: penalty on the distance of feature maps from the source's, channel by channel",
        traced=True,
        at_least=0,
    )

    towards_source = ("strength",)
    compares_layers = True

    def check_training(self, training: Training, where: str, dotted: str) -> None:
        """Raises a `UserError` if blocks that are compared start from other weights than the source's."""
        super().check_training(training, where, dotted)
        start = training.initialization
        anew = (
            "start"
            if start.start == "mean_var"
            else "transferred_blocks"
            if start.transferred_blocks is not None
            else None
        )
        if self.strength and anew is not None:
            raise UserError(
                f"config field '{dotted}.strength' compares feature maps with the source's, but "
                f"'{where}.initialization.{anew}' is {getattr(start, anew)!r}, which starts blocks anew; leave one "
                "of them out."
            )


class Delta(Regularizer):
    """A penalty on the distance of the outputs of stages from the source's. Its static part are their blocks."""

    def static(self, options: DeltaConfig, scope: Scope) -> tuple[str, ...] | None:
        model = scope.model
        return (
            tuple(
                tap.block
                for tap in model.taps
                if tap.block in scope.blocks_above_prefix and tap.block != model.blocks[0]
            )
            or None
        )

    def numbers(self, options: DeltaConfig) -> dict[str, Any]:
        return {"strength": jnp.float32(options.strength)}

    def outputs(self, static: tuple[str, ...], model: Network) -> tuple[str, ...]:
        return static

    def source_needs(self, static: tuple[str, ...], model: Network) -> SourceNeeds:
        return SourceNeeds(maps=static)

    def measured_shapes(
        self, statics: Sequence[tuple[str, ...]], model: Network, size_px: int
    ) -> dict[str, tuple[int, ...]]:
        blocks = dict.fromkeys(block for static in statics for block in static)
        return {block: output_shape(model, block, size_px)[-1:] for block in blocks}

    def measure(self, statics: Sequence[tuple[str, ...]], images: TrainingImages) -> dict[str, np.ndarray]:
        return channel_attention(tuple(dict.fromkeys(block for static in statics for block in static)), images)

    def penalty(self, term: Term, context: StepContext) -> jax.Array:
        attention = {block: term.measured[block] for block in term.static}
        return term.numbers["strength"] * map_distance(context.forward.outputs, context.source_outputs, attention)


def map_distance(
    maps: Mapping[str, jax.Array], source_maps: Mapping[str, jax.Array], attention: Mapping[str, jax.Array]
) -> jax.Array:
    """Returns sum_j W_j ||FM_j(w) - FM_j(w0)||^2 over the channels j of all blocks, mean over the images.

    Args:
      maps: {block: [n, ..., channels]}.
      source_maps: those of the source.
      attention: {block: [channels]}, the W_j.

    DELTA (Li et al. 2019, section 3.2). The authors' code divides by the places of a map, multiplies by its channels
    and sums over the images; the paper does not.
    """
    total = jnp.float32(0)
    for block, weights in attention.items():
        squares = jnp.square(maps[block] - jax.lax.stop_gradient(source_maps[block]))
        total += (squares.sum(tuple(range(1, squares.ndim - 1))) @ weights).mean()
    return total


REGULARIZERS.register(
    "delta", Delta(), section=DeltaConfig, help="penalty on the distance of feature maps from the source's"
)
