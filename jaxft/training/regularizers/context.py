"""What a regularizer sees of a step."""

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
    """A step, as its regularizers see it.

    Attributes:
      phase: what is static.
      hparams: the trial's numbers.
      params: the network's parameters by name, low-rank updates merged into the kernels.
      forward: logits, outputs of the blocks that were asked for, and the input of the first block above the prefix.
      targets: labels and rows of the images, of both images where they are mixed.
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
        """Returns the arrays of the source, which some regularizer needs."""
        if self.source_arrays is None:
            raise ValueError("a regularizer needs the source; its source_needs must say so.")
        return self.source_arrays

    @functools.cached_property
    def source_outputs(self) -> dict[str, jax.Array]:
        """Returns the source's outputs of all blocks that regularizers need, for the images of the batch."""
        needs = self.phase.regularizers.source_needs(self.model)
        batch = self.forward.entering, self.targets.original.rows
        return source_maps(self.source, self.model, self.phase.prefix, needs.maps, batch)
