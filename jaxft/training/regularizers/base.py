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
    """The network of a phase, and the parameters that the phase trains.

    Attributes:
      model: the network.
      names: all parameters that have a rule, including LoRA factors.
      trained: the parameters that train in the phase.
      prefix: the last block of the frozen prefix; None if the first block trains.
      grows: whether the network has new units, which the source does not have.
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
    """A regularizer in a phase.

    Attributes:
      static: its static part.
      numbers: its traced numbers, by name.
      measured: the arrays that it measured before training, by name.
    """

    static: Any
    numbers: dict[str, Any]
    measured: dict[str, Any]


class Regularizer:
    """A term of the loss, or noise in the forward pass. A regularizer uses only the arguments of its methods.

    A subclass overrides only the methods that it needs; the defaults do nothing. `options` is the config section of the
    regularizer, a subclass of `jaxft.config.training.regularization.RegularizerConfig`.
    """

    is_random = False  # whether it adds noise

    def static(self, options: Any, scope: Scope) -> Any:
        """Returns the static part in a phase: a hashable value with a stable repr; None if it does not act there."""
        return options

    def numbers(self, options: Any) -> dict[str, Any]:
        """Returns the traced numbers by name: float32 scalars, or nested dicts of them."""
        return {}

    def outputs(self, static: Any, model: Network) -> tuple[str, ...]:
        """Returns the blocks whose outputs the regularizer needs."""
        return ()

    def source_needs(self, static: Any, model: Network) -> SourceNeeds:
        """Returns the arrays of the source that the regularizer needs."""
        return SourceNeeds()

    def measured_shapes(self, statics: Sequence[Any], model: Network, size_px: int) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the arrays that it measures before training, by name, for all phases of a trial."""
        return {}

    def measure(self, statics: Sequence[Any], images: TrainingImages) -> dict[str, np.ndarray]:
        """Returns the arrays of `measured_shapes`, by name; `images` has the training images and the source network."""
        return {}

    def penalty(self, term: Term, context: StepContext) -> jax.Array | None:
        """Returns the term of the loss for a batch, a scalar; None if the regularizer has no term."""
        return None

    def add_noise(self, noise: Noise, term: Term, model: Network, noise_key: NoiseKey) -> Noise:
        """Returns `noise` with the noise of this regularizer for a batch.

        Args:
          noise: the noise of the previous regularizers.
          term: the static part and the numbers.
          model: the network.
          noise_key: the key of the step, and the positions of the images in the batch.
        """
        return noise
