"""The interface of a regularizer."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft.models import Network
from jaxft.training.noise import Noise, NoiseKey
from jaxft.training.regularizers.context import StepContext
from jaxft.training.source import SourceNeeds
from jaxft.training.training_images import TrainingImages


@dataclass(frozen=True)
class Scope:
    """What a phase trains.

    Attributes:
      names: all parameters that rules decide about, factors of low-rank updates too.
      trained: those of them that train in the phase.
      prefix: the last block of the frozen prefix; None if the first block trains.
      grows: whether the network has new units that the source does not have.
    """

    model: Network
    names: Sequence[str]
    trained: Collection[str]
    prefix: str | None
    grows: bool = False

    @property
    def blocks_above_prefix(self) -> tuple[str, ...]:
        """Returns the blocks above the frozen prefix."""
        blocks = self.model.blocks
        return blocks[blocks.index(self.prefix) + 1 :] if self.prefix else blocks


class Term(NamedTuple):
    """A regularizer in a phase: its static part, its traced numbers, and what it measured before training."""

    static: Any
    numbers: dict[str, Any]
    measured: dict[str, Any]


class Regularizer:
    """A term of the loss, or noise in the forward pass. It reads what it needs from its arguments and calls nothing.

    The defaults do nothing, so that a regularizer has only the methods that concern it. `options` is its section of the
    config, a subclass of `jaxft.config.training.regularization.RegularizerConfig`.
    """

    is_random = False  # whether it draws noise

    def static(self, options: Any, scope: Scope) -> Any:
        """Returns what is static in a phase, a hashable value with a stable repr; None if it does not act there."""
        return options

    def numbers(self, options: Any) -> dict[str, Any]:
        """Returns its traced numbers by name, float32 scalars or nested dicts of them."""
        return {}

    def outputs(self, static: Any, model: Network) -> tuple[str, ...]:
        """Returns the blocks whose outputs it needs."""
        return ()

    def source_needs(self, static: Any, model: Network) -> SourceNeeds:
        """Returns what it needs of the source."""
        return SourceNeeds()

    def measured_shapes(self, statics: Sequence[Any], model: Network, size_px: int) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the arrays that it measures before training, by name, for all phases of a trial."""
        return {}

    def measure(self, statics: Sequence[Any], images: TrainingImages) -> dict[str, np.ndarray]:
        """Returns the arrays of `measured_shapes`; `images` are those of the trial, with the source's network."""
        return {}

    def penalty(self, term: Term, context: StepContext) -> jax.Array | None:
        """Returns its term of the loss of a batch, a scalar; None if it only draws noise."""
        return None

    def add_noise(self, noise: Noise, term: Term, model: Network, noise_key: NoiseKey) -> Noise:
        """Returns `noise` with what this regularizer draws for the images of a batch."""
        return noise
