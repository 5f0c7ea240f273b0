"""Gradual unfreezing (Howard & Ruder 2018, section 3.3): the stages of a network, and when each begins to train."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxft.config import Training
from jaxft.core.errors import UserError
from jaxft.models import Network, block_of


class Stretch(NamedTuple):
    """Steps of a schedule, `[first, last)`, and the leaves that train in them with the step at which each joined."""

    steps: tuple[int, int]
    joined: Mapping[str, int]


def unfreezing_stretches(
    training: Training, model: Network, trained: Iterable[str], moments: Sequence[int]
) -> Iterator[Stretch]:
    """Yields the stretches of a schedule, each with a stage more than the one before; the last with all that are left.

    Howard and Ruder let in a layer an epoch.

    Args:
      trained: the leaves that train in the end.
      moments: the steps at which stretches begin, from 0 on, and the number of all steps.

    Raises:
      UserError: there are more moments than stages, or a stretch has no step.
    """
    stages = stages_of(model, trained)
    _check(training, stages, moments)
    joined: dict[str, int] = {}
    for i, (begin, end) in enumerate(itertools.pairwise(moments)):
        is_last = end == moments[-1]
        joined |= {name: begin for stage in (stages[i:] if is_last else stages[i : i + 1]) for name in stage}
        yield Stretch((begin, end), dict(joined))


def stages_of(model: Network, trained: Iterable[str]) -> list[list[str]]:
    """Returns the leaves that train by stage, from the head down.

    A stage is the blocks that share the first part of a name. A stage of which nothing trains is left out.
    """
    stages: dict[str, list[str]] = {block.partition("/")[0]: [] for block in reversed(model.blocks)}
    for name in trained:
        stages[block_of(name, model.blocks).partition("/")[0]].append(name)
    return [names for names in stages.values() if names]


def _check(training: Training, stages: Sequence[Sequence[str]], moments: Sequence[int]) -> None:
    given = list(training.layers.unfreeze_epochs)
    if len(given) >= len(stages):
        raise UserError(
            f"config field 'training.layers.unfreeze_epochs' is {given}, but after the first there "
            f"{'is' if len(stages) == 2 else 'are'} {len(stages) - 1} stage{'s' * (len(stages) != 2)} to let in; "
            "give no more than that."
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(moments)):
        raise UserError(
            f"config field 'training.layers.unfreeze_epochs' is {given}, which are steps {list(moments[1:-1])} of "
            f"{moments[-1]}; each must be a step later than the one before, and before the end."
        )
