"""The regularizers of a phase together: static parts, numbers, penalties and noise."""

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
    """The regularizers that act in a phase: (name, static part), in the order of the registry.

    Iteration yields (name, regularizer, static part).
    """

    statics: tuple[tuple[str, Any], ...] = ()

    def __iter__(self) -> Iterator[tuple[str, Regularizer, Any]]:
        return iter([(name, REGULARIZERS[name].value, static) for name, static in self.statics])

    def __bool__(self) -> bool:
        return bool(self.statics)

    def static(self, name: str) -> Any:
        """Returns the static part of a regularizer; None if the regularizer does not act."""
        return dict(self.statics).get(name)

    @property
    def is_random(self) -> bool:
        """Returns whether any of the regularizers adds noise."""
        return any(regularizer.is_random for _, regularizer, _ in self)

    def outputs(self, model: Network) -> tuple[str, ...]:
        """Returns the blocks whose outputs the regularizers need."""
        blocks = (block for _, regularizer, static in self for block in regularizer.outputs(static, model))
        return tuple(dict.fromkeys(blocks))

    def source_needs(self, model: Network) -> SourceNeeds:
        """Returns the arrays of the source that the regularizers need."""
        return all_needs((regularizer.source_needs(static, model) for _, regularizer, static in self), model)

    def noise(self, numbers: RegularizerNumbers, model: Network, noise_key: NoiseKey) -> Noise:
        """Returns the noise of all regularizers for the images of a batch."""
        noise = Noise()
        for name, regularizer, static in self:
            noise = regularizer.add_noise(noise, Term(static, numbers.get(name, {}), {}), model, noise_key)
        return noise

    def penalty(self, context: StepContext) -> jax.Array | None:
        """Returns the sum of the loss terms for a batch, a scalar; None if no regularizer has a term."""
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
      UserError: a regularizer cannot act on this network, or one of its rules decides about no parameter.
    """
    active = []
    for name, options in turned_on(training):
        static = REGULARIZERS[name].value.static(options, scope)
        if static is not None:
            active.append((name, static))
    return ActiveRegularizers(tuple(active))


def turned_on(training: Training) -> list[tuple[str, Any]]:
    """Returns (name, config section) of the regularizers that are turned on, in the order of the registry."""
    sections = sections_of(training.regularization)
    return [(name, options) for name, options in sections.items() if options.active_field is not None]


def make_numbers(training: Training) -> RegularizerNumbers:
    """Returns the numbers of the regularizers that are turned on, by regularizer and name.

    A regularizer has numbers even if it does not act in every phase.
    """
    numbers = {name: REGULARIZERS[name].value.numbers(options) for name, options in turned_on(training)}
    return {name: values for name, values in numbers.items() if values}


def to_measure(phases: Sequence[ActiveRegularizers]) -> dict[str, tuple[Any, ...]]:
    """Returns the distinct static parts of each regularizer over all phases of a trial."""
    statics: dict[str, tuple[Any, ...]] = {}
    for active in phases:
        for name, static in active.statics:
            statics[name] = tuple(dict.fromkeys((*statics.get(name, ()), static)))
    return statics


def measured_shapes(
    phases: Sequence[ActiveRegularizers], model: Network, size_px: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shapes of the arrays that the regularizers measure before training, by regularizer and name."""
    by_regularizer = {
        name: REGULARIZERS[name].value.measured_shapes(statics, model, size_px)
        for name, statics in to_measure(phases).items()
    }
    return {name: shapes for name, shapes in by_regularizer.items() if shapes}


def measure(phases: Sequence[ActiveRegularizers], images: TrainingImages) -> dict[str, dict[str, np.ndarray]]:
    """Returns the arrays that the regularizers of a trial measure before training, by regularizer and name."""
    size_px = images.preprocessing.size_px
    statics = to_measure(phases)
    return {
        name: REGULARIZERS[name].value.measure(statics[name], images)
        for name in measured_shapes(phases, images.model, size_px)
    }
