"""DELTA (Li et al. 2019): a penalty on the distance between feature maps of the network and of the source."""

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
    """DELTA (Li et al. 2019): a penalty on the distance between feature maps of the network and of the source."""

    strength: float = setting(
        0.0,
        "DELTA: penalty on the distance between feature maps and those of the source, weighted by channel",
        traced=True,
        at_least=0,
    )

    source_fields = ("strength",)
    compares_layers = True

    def check_training(self, training: Training, where: str, dotted: str) -> None:
        """Checks that all blocks start from the source.

        Raises:
          UserError: some blocks that DELTA compares do not start from the weights of the source.
        """
        super().check_training(training, where, dotted)
        start = training.initialization
        field = None
        if start.start == "mean_var":
            field = "start"
        elif start.transferred_blocks is not None:
            field = "transferred_blocks"
        if self.strength and field is not None:
            raise UserError(
                f"config field '{dotted}.strength' compares feature maps with those of the source, but "
                f"'{where}.initialization.{field}' is {getattr(start, field)!r}, which draws random weights for some "
                "blocks; set only one of these fields."
            )


class Delta(Regularizer):
    """A penalty on the distance between feature maps of the network and of the source, at the ends of stages.

    The static part is the last blocks of the stages.
    """

    def static(self, options: DeltaConfig, scope: Scope) -> tuple[str, ...] | None:
        first, above = scope.model.blocks[0], scope.blocks_above_prefix
        return tuple(tap.block for tap in scope.model.taps if tap.block in above and tap.block != first) or None

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
    """Returns sum_j W_j ||FM_j(w) - FM_j(w0)||^2 over the channels j of all blocks, averaged over the images; a scalar.

    DELTA (Li et al. 2019, section 3.2). The code of the authors divides by the number of positions of a map, multiplies
    by its number of channels, and sums over the images; the paper does not.

    Args:
      maps: {block: [n, ..., channels]}, outputs of the network.
      source_maps: {block: [n, ..., channels]}, outputs of the source.
      attention: {block: [channels]}, the weights W_j.
    """
    total = jnp.float32(0)
    for block, weights in attention.items():
        squares = jnp.square(maps[block] - jax.lax.stop_gradient(source_maps[block]))
        total += (squares.sum(tuple(range(1, squares.ndim - 1))) @ weights).mean()
    return total


REGULARIZERS.register(
    "delta", Delta(), section=DeltaConfig, help="penalty on the distance between feature maps and those of the source"
)
