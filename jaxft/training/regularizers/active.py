"""The regularizers of a phase together: their static parts, numbers, penalties and noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config import Training
from jaxft.config.sections import sections_of
from jaxft.core.registries import REGULARIZERS
from jaxft.models import Network
from jaxft.training.noise import Noise, NoiseKey
from jaxft.training.regularizers.base import Regularizer, Scope, Term
from jaxft.training.regularizers.context import StepContext
from jaxft.training.source import SourceNeeds, all_needs
from jaxft.training.training_images import TrainingImages

RegularizerNumbers = dict[str, dict[str, Any]]  # by regularizer


@dataclass(frozen=True)
class ActiveRegularizers:
    """The regularizers that act in a phase: (name, static part), in the order of the registry."""

    statics: tuple[tuple[str, Any], ...] = ()

    def __iter__(self) -> Iterator[tuple[str, Regularizer, Any]]:
        return iter([(name, REGULARIZERS[name].value, static) for name, static in self.statics])

    def __bool__(self) -> bool:
        return bool(self.statics)

    def static(self, name: str) -> Any:
        """Returns the static part of a regularizer; None if it does not act."""
        return dict(self.statics).get(name)

    @property
    def is_random(self) -> bool:
        """Returns whether any of them draws noise."""
        return any(regularizer.is_random for _, regularizer, _ in self)

    def outputs(self, model: Network) -> tuple[str, ...]:
        """Returns the blocks whose outputs they need."""
        return tuple(dict.fromkeys(block for _, each, static in self for block in each.outputs(static, model)))

    def source_needs(self, model: Network) -> SourceNeeds:
        """Returns what they need of the source."""
        return all_needs((each.source_needs(static, model) for _, each, static in self), model)

    def noise(self, numbers: RegularizerNumbers, model: Network, noise_key: NoiseKey) -> Noise:
        """Returns the noise of all of them for the images of a batch."""
        noise = Noise()
        for name, regularizer, static in self:
            noise = regularizer.add_noise(noise, Term(static, numbers.get(name, {}), {}), model, noise_key)
        return noise

    def penalty(self, context: StepContext) -> jax.Array | None:
        """Returns the sum of their terms of the loss of a batch; None if no term acts."""
        numbers, measured = context.hparams.regularizers, context.hparams.measured
        total = None
        for name, regularizer, static in self:
            term = regularizer.penalty(Term(static, numbers.get(name, {}), measured.get(name, {})), context)
            if term is not None:
                total = (jnp.float32(0) if total is None else total) + term
        return total


def make_regularizers(training: Training, scope: Scope) -> ActiveRegularizers:
    """Returns the regularizers that act in a phase.

    Raises:
      UserError: one of them cannot act on this network, or has a rule that decides nothing.
    """
    active = []
    for name, options in turned_on(training):
        static = REGULARIZERS[name].value.static(options, scope)
        if static is not None:
            active.append((name, static))
    return ActiveRegularizers(tuple(active))


def turned_on(training: Training) -> list[tuple[str, Any]]:
    """Returns (name, section of the config) of the regularizers that are turned on, in the order of the registry."""
    sections = sections_of(training.regularization)
    return [(name, options) for name, options in sections.items() if options.acting_field is not None]


def make_numbers(training: Training) -> RegularizerNumbers:
    """Returns the numbers of the regularizers that are turned on, whether or not they act in every phase."""
    numbers = {name: REGULARIZERS[name].value.numbers(options) for name, options in turned_on(training)}
    return {name: values for name, values in numbers.items() if values}


def to_measure(phases: Sequence[ActiveRegularizers]) -> dict[str, tuple[Any, ...]]:
    """Returns the static parts of each regularizer in all phases of a trial, without repetitions."""
    statics: dict[str, tuple[Any, ...]] = {}
    for active in phases:
        for name, static in active.statics:
            statics[name] = tuple(dict.fromkeys((*statics.get(name, ()), static)))
    return statics


def measured_shapes(
    phases: Sequence[ActiveRegularizers], model: Network, size_px: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shapes of the arrays that the regularizers of a trial measure before training, by regularizer."""
    every = {
        name: REGULARIZERS[name].value.measured_shapes(statics, model, size_px)
        for name, statics in to_measure(phases).items()
    }
    return {name: shapes for name, shapes in every.items() if shapes}


def measure(phases: Sequence[ActiveRegularizers], images: TrainingImages) -> dict[str, dict[str, np.ndarray]]:
    """Returns what the regularizers of a trial measure before training, by regularizer."""
    size_px = images.preprocessing.size_px
    statics = to_measure(phases)
    return {
        name: REGULARIZERS[name].value.measure(statics[name], images)
        for name in measured_shapes(phases, images.model, size_px)
    }
