"""Gradual unfreezing (Howard & Ruder 2018, section 3.3): stages of a network, and the step at which each joins."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxft.config import Training
from jaxft.core.errors import UserError
from jaxft.core.text import plural
from jaxft.models import Network, block_of


class UnfreezingPart(NamedTuple):
    """A part of a schedule with a fixed set of trainable leaves.

    Attributes:
      interval: steps [first, end) of the schedule.
      joined: {trainable leaf: step at which it joined}.
    """

    interval: tuple[int, int]
    joined: Mapping[str, int]


def unfreezing_schedule(
    training: Training, model: Network, trained: Iterable[str], boundaries: Sequence[int]
) -> Iterator[UnfreezingPart]:
    """Yields the parts of a schedule. Each part trains one more stage, from the head down; the last trains all leaves.

    In the paper, one more layer trains in each epoch.

    Args:
      training: the config of training, for error messages.
      model: the network.
      trained: the leaves that train in the last part.
      boundaries: the first step of each part, starting with 0, and the number of steps of the schedule.

    Raises:
      UserError: there are more parts than stages, or a part has no step.
    """
    stages = stages_of(model, trained)
    _check(training, stages, boundaries)
    joined: dict[str, int] = {}
    for i, (first, end) in enumerate(itertools.pairwise(boundaries)):
        is_last = end == boundaries[-1]
        joined |= {name: first for stage in (stages[i:] if is_last else stages[i : i + 1]) for name in stage}
        yield UnfreezingPart((first, end), dict(joined))


def stages_of(model: Network, trained: Iterable[str]) -> list[list[str]]:
    """Returns the trainable leaves of each stage, from the head down.

    A stage is all blocks with the same first component of their name. Stages without trainable leaves are left out.
    """
    stages: dict[str, list[str]] = {block.partition("/")[0]: [] for block in reversed(model.blocks)}
    for name in trained:
        stages[block_of(name, model.blocks).partition("/")[0]].append(name)
    return [names for names in stages.values() if names]


def _check(training: Training, stages: Sequence[Sequence[str]], boundaries: Sequence[int]) -> None:
    epochs = list(training.layers.unfreeze_epochs)
    if len(epochs) >= len(stages):
        raise UserError(
            f"config field 'training.layers.unfreeze_epochs' has {plural(len(epochs), 'value')}, but only "
            f"{plural(len(stages) - 1, 'stage')} can join after the first; give one value per stage, or fewer."
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(boundaries)):
        raise UserError(
            f"config field 'training.layers.unfreeze_epochs' is {epochs}, which are the steps "
            f"{list(boundaries[1:-1])} of {boundaries[-1]}; steps must increase and be before the end."
        )
