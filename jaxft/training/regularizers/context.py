"""The context of a training step, which each regularizer receives."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax

from jaxft.models import Network
from jaxft.training.source import SourceArrays, source_maps
from jaxft.training.targets import BatchTargets

if TYPE_CHECKING:
    from jaxft.training.forward import ForwardPass
    from jaxft.training.hparams import HParams
    from jaxft.training.phase import Phase


@dataclass(frozen=True, eq=False)
class StepContext:
    """The context of a training step.

    Attributes:
      phase: the static part of the phase.
      hparams: the numbers of the trial.
      params: the parameters of the network by name, with LoRA factors merged into the kernels.
      forward: logits, requested outputs of blocks, and the input of the first block above the frozen prefix.
      targets: labels and rows of the images; for mixed images, of both images.
      source_arrays: arrays of the source; None if no regularizer needs any.
      key: the key of the step.
    """

    phase: "Phase"
    hparams: "HParams"
    params: Mapping[str, jax.Array]
    forward: "ForwardPass"
    targets: BatchTargets
    source_arrays: SourceArrays | None
    key: jax.Array

    @property
    def model(self) -> Network:
        """Returns the network."""
        return self.phase.model

    @property
    def source(self) -> SourceArrays:
        """Returns the arrays of the source.

        Raises:
          ValueError: no regularizer declares in `source_needs` that it needs the source.
        """
        if self.source_arrays is None:
            raise ValueError("a regularizer uses the source, but its source_needs does not declare any arrays.")
        return self.source_arrays

    @functools.cached_property
    def source_outputs(self) -> dict[str, jax.Array]:
        """Returns {block: outputs [n, ...]} of the source for the batch, for all blocks that regularizers need."""
        needs = self.phase.regularizers.source_needs(self.model)
        batch = self.forward.entering, self.targets.original.rows
        return source_maps(self.source, self.model, self.phase.prefix, needs.maps, batch)
