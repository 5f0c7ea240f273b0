"""Choice of the executor of a group: on a CPU from estimated work, on an accelerator from timed steps."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from jaxft.core import events
from jaxft.core.devices import num_cores
from jaxft.core.events import Listener
from jaxft.core.text import duration, plural
from jaxft.models.cost import block_costs
from jaxft.store.records import Store
from jaxft.study.candidates import candidates
from jaxft.study.chunk.memory import needed_bytes
from jaxft.study.chunk.timing import time_steps
from jaxft.study.device_memory import is_out_of_memory
from jaxft.study.examples import example_images, example_lane
from jaxft.study.executors import Executor, Sequential, Workload
from jaxft.study.planned import Group, Plan

SEQUENTIAL_SECONDS = 20.0  # shorter studies run sequentially: starting workers or timing executors costs more

CORE_MACS_PER_SECOND = 3e10  # multiply-accumulates of training per second and core; measured: 1.5e10 to 4e10


class Chooser:
    """Chooses the executor of each group that has none in the store.

    Attributes:
      plan: the study.
      emit: the listener that is called with the choices.
    """

    def __init__(self, plan: Plan, store: Store, emit: Listener):
        self.plan, self.emit = plan, emit
        self._candidates_of: dict[str, list[Executor]] = {}
        self._similar_groups: dict[Any, list[Group]] = {}
        for group in plan.groups:
            if store.group(group.key) is None and len(self._candidates(group)) > 1:
                self._similar_groups.setdefault(self._similarity_key(group), []).append(group)
        self._seconds_by_group: dict[str, dict[Executor, float]] = {}
        self._has_reported = False

    def choose(self, group: Group) -> tuple[Executor, str]:
        """Returns (executor, reason) for a group; the reason is empty if there is only one candidate.

        On a CPU, two workers on two cores take four fifths of the sequential time and a few seconds to start. So they
        are chosen if the estimated time of the study is long enough. On an accelerator, executors are timed. Among
        groups with the same network, batch size and candidates, only the one with the most work is timed, because
        compiling every group for every executor would take longer than most studies gain.
        """
        executors = self._candidates(group)
        if len(executors) == 1:
            return executors[0], ""
        if executors[-1].in_workers:
            return self._workers_or(executors[0], executors[-1])
        if self.plan.study.execution.deterministic:
            # Data-parallel sums are repeatable only if the collectives keep their order.
            executors = [executor for executor in executors if executor.is_repeatable]
            return executors[-1], "the widest; a deterministic study times no executors"
        similar = self._similar_groups.get(self._similarity_key(group), [group])
        timed = max(similar, key=lambda group: num_steps(group) * len(group.trials))
        is_new = timed.key not in self._seconds_by_group
        seconds_by_executor = self._measured_seconds(timed, executors)
        best = min(seconds_by_executor, key=seconds_by_executor.__getitem__)
        reason = f"steps of {plural(len(timed.trials), 'trial')} would take " + ", ".join(
            f"{duration(seconds)} {executor}" for executor, seconds in seconds_by_executor.items() if seconds < math.inf
        )
        if is_new:
            self.emit(events.ExecutorChosen(sum(len(group.trials) for group in similar), str(best), f"the {reason}"))
        return best, reason

    def _workers_or(self, sequential: Executor, workers: Executor) -> tuple[Executor, str]:
        chosen = workers if self._estimated_seconds >= SEQUENTIAL_SECONDS else sequential
        reason = f"all steps would take about {duration(self._estimated_seconds)} sequentially"
        if not self._has_reported:
            self.emit(events.ExecutorChosen(sum(len(group.trials) for group in self._new_groups), str(chosen), reason))
            self._has_reported = True
        return chosen, reason

    @functools.cached_property
    def _estimated_seconds(self) -> float:
        """Returns the estimated seconds of all steps of the new groups, run sequentially on all CPU cores."""
        return sum(num_macs(group) * len(group.trials) for group in self._new_groups) / (
            CORE_MACS_PER_SECOND * num_cores()
        )

    @property
    def _new_groups(self) -> list[Group]:
        """Returns the groups that need a choice of executor."""
        return [group for groups in self._similar_groups.values() for group in groups]

    def _similarity_key(self, group: Group) -> Any:
        """Returns the network, batch size and candidates of a group; groups with equal keys share one choice."""
        phase = group.program.phases[-1]
        return phase.model, phase.batch_size, tuple(self._candidates(group))

    def _candidates(self, group: Group) -> list[Executor]:
        if group.feature_specs:  # a classifier of features fits all its penalties in one program already
            return [Sequential()]
        if group.key not in self._candidates_of:
            first, execution = group.trials[0], self.plan.study.execution
            heads_only = all(phase.can_train_on_features for phase in group.program.phases)

            def needed(executor: Executor) -> float:
                self.emit(events.Working(f"compiling: {executor}"))
                return needed_bytes(group.program, example_lane(first), example_images(first, execution), executor)

            batches = [phase.batch_size for phase in group.program.phases]
            self._candidates_of[group.key] = candidates(
                Workload(execution, len(group.trials), batches, heads_only, needed)
            )
        return self._candidates_of[group.key]

    def _measured_seconds(self, group: Group, executors: Sequence[Executor]) -> dict[Executor, float]:
        """Returns the seconds of all steps of a group by executor; only the first executor for a short study."""
        if group.key not in self._seconds_by_group:
            first, *others = executors
            seconds_by_executor = {first: self._seconds(group, first)}
            num_new_steps = sum(num_steps(group) * len(group.trials) for group in self._new_groups)
            # An upper bound for groups with more frozen layers.
            step_seconds = seconds_by_executor[first] / (num_steps(group) * len(group.trials))
            if step_seconds * num_new_steps >= SEQUENTIAL_SECONDS:
                seconds_by_executor |= {executor: self._seconds(group, executor) for executor in others}
            self._seconds_by_group[group.key] = seconds_by_executor
        return self._seconds_by_group[group.key]

    def _seconds(self, group: Group, executor: Executor) -> float:
        """Returns the seconds of all steps of a group with one executor, extrapolated from half a second of steps.

        It is infinite if the program runs out of memory.
        """
        self.emit(events.Working(f"timing executors: {executor}"))
        first = group.trials[0]
        images = example_images(first, self.plan.study.execution)
        try:
            step_seconds = time_steps(group.program, example_lane(first), images, executor)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.emit(events.OutOfMemory(str(executor), None))
            return math.inf
        return step_seconds * num_steps(group) * -(-len(group.trials) // executor.width)


def num_steps(group: Group) -> int:
    """Returns the number of training steps of each trial of a group."""
    return sum(phase.num_steps for phase in group.program.phases)


def num_macs(group: Group) -> float:
    """Returns the number of multiply-accumulates of all training steps of one trial.

    Blocks above the frozen prefix count three times (forward pass and two gradients). The frozen prefix counts once, or
    not at all if its outputs are cached.
    """
    first, total = group.trials[0], 0.0
    macs_by_block = {block.name: block.num_macs for block in block_costs(first.model, first.size_px)}
    for phase in group.program.phases:
        blocks = first.model.blocks
        prefix_blocks = blocks[: blocks.index(phase.prefix) + 1] if phase.prefix is not None else ()
        prefix_macs, total_macs = sum(macs_by_block[block] for block in prefix_blocks), sum(macs_by_block.values())
        macs_per_image = 3 * (total_macs - prefix_macs) + (0 if phase.can_cache_prefix else prefix_macs)
        total += macs_per_image * phase.num_steps * phase.batch_size
    return total
