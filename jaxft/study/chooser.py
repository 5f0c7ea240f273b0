"""Which executor runs a group: on a CPU by an estimate of the study's work, elsewhere by timing steps."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from jaxft.core import events
from jaxft.core.devices import num_cores
from jaxft.core.events import Listener
from jaxft.core.text import duration
from jaxft.models.cost import block_costs
from jaxft.store.records import Store
from jaxft.study.candidates import candidates
from jaxft.study.chunk.memory import needed_bytes
from jaxft.study.chunk.timing import time_steps
from jaxft.study.device_memory import is_out_of_memory
from jaxft.study.examples import example_images, example_lane
from jaxft.study.executors import Executor, Sequential, Workload
from jaxft.study.planned import Group, Plan

WORTH_SECONDS = 20.0  # less work than this is not worth looking for a faster way to do it

CORE_MACS = 3e10  # multiply-accumulates of training in a second on a core: 1.5e10 to 4e10 were measured


class Chooser:
    """Chooses executors: on a CPU by an estimate of the study's work, elsewhere by timing steps."""

    def __init__(self, plan: Plan, store: Store, emit: Listener):
        self.plan, self.emit = plan, emit
        self._candidates_of: dict[str, list[Executor]] = {}
        self._alike: dict[Any, list[Group]] = {}
        for group in plan.groups:
            if store.group(group.key) is None and len(self._candidates(group)) > 1:
                self._alike.setdefault(self._kind(group), []).append(group)
        self._taken: dict[str, dict[Executor, float]] = {}
        self._has_emitted = False

    def choose(self, group: Group) -> tuple[Executor, str]:
        """Returns an executor for a group, and why it.

        On a CPU, worker processes train a study in four fifths of the time, and take some seconds to start; they are
        chosen where there is enough to do, by an estimate. Elsewhere executors are timed. Of groups that train one
        network and may run alike, the one with most to do is timed for all: to compile each of them for each executor
        would take longer than most studies gain.
        """
        executors = self._candidates(group)
        if len(executors) == 1:
            return executors[0], ""
        if executors[-1].in_workers:
            return self._workers_or(executors[0], executors[-1])
        if self.plan.study.execution.deterministic:
            # Sums over the devices of one trial's batch are repeatable only if the collectives keep their order.
            executors = [executor for executor in executors if executor.is_repeatable]
            return executors[-1], "the widest, as nothing is timed"
        alike = self._alike.get(self._kind(group), [group])
        measured = max(alike, key=lambda group: num_steps(group) * len(group.trials))
        is_new = measured.key not in self._taken
        taken = self._seconds_of(measured, executors)
        best = min(taken, key=taken.__getitem__)
        why = f"steps of {len(measured.trials)} would take " + ", ".join(
            f"{duration(seconds)} {executor}" for executor, seconds in taken.items() if seconds < math.inf
        )
        if is_new:
            self.emit(events.ExecutorChosen(sum(len(group.trials) for group in alike), str(best), f"the {why}"))
        return best, why

    def _workers_or(self, sequential: Executor, workers: Executor) -> tuple[Executor, str]:
        chosen = workers if self._cpu_seconds >= WORTH_SECONDS else sequential
        why = f"all steps take about {duration(self._cpu_seconds)} in turn"
        if not self._has_emitted:
            self.emit(events.ExecutorChosen(sum(len(group.trials) for group in self._new), str(chosen), why))
            self._has_emitted = True
        return chosen, why

    @functools.cached_property
    def _cpu_seconds(self) -> float:
        """Returns about how long the steps of all new groups take in turn on the cores of a CPU."""
        return sum(num_macs(group) * len(group.trials) for group in self._new) / (CORE_MACS * num_cores())

    @property
    def _new(self) -> list[Group]:
        """Returns the groups for which an executor is to be chosen."""
        return [group for groups in self._alike.values() for group in groups]

    def _kind(self, group: Group) -> Any:
        """Returns what groups have in common for which one choice will do."""
        phase = group.program.phases[-1]
        return phase.model, phase.batch_size, tuple(self._candidates(group))

    def _candidates(self, group: Group) -> list[Executor]:
        if group.feature_specs:  # classifiers of features, each of which has all its strengths side by side
            return [Sequential()]
        if group.key not in self._candidates_of:
            first, execution = group.trials[0], self.plan.study.execution
            heads_only = all(phase.heads_of_features for phase in group.program.phases)

            def needed(executor: Executor) -> float:
                self.emit(events.Working(f"compiling: {executor}"))
                return needed_bytes(group.program, example_lane(first), example_images(first, execution), executor)

            batches = [phase.batch_size for phase in group.program.phases]
            self._candidates_of[group.key] = candidates(
                Workload(execution, len(group.trials), batches, heads_only, needed)
            )
        return self._candidates_of[group.key]

    def _seconds_of(self, group: Group, executors: Sequence[Executor]) -> dict[Executor, float]:
        """Returns what the steps of a group take by each executor, or by the first where all the study's are few."""
        if group.key not in self._taken:
            first, *others = executors
            taken = {first: self._seconds(group, first)}
            sequential = taken[first] / (num_steps(group) * len(group.trials))  # an upper bound, where less is trained
            if sequential * sum(num_steps(group) * len(group.trials) for group in self._new) >= WORTH_SECONDS:
                taken |= {executor: self._seconds(group, executor) for executor in others}
            self._taken[group.key] = taken
        return self._taken[group.key]

    def _seconds(self, group: Group, executor: Executor) -> float:
        """Returns what the steps of a group take by an executor, from half a second of them."""
        self.emit(events.Working(f"timing executors: {executor}"))
        first = group.trials[0]
        images = example_images(first, self.plan.study.execution)
        try:
            a_step = time_steps(group.program, example_lane(first), images, executor)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.emit(events.OutOfMemory(str(executor), None))
            return math.inf
        return a_step * num_steps(group) * -(-len(group.trials) // executor.width)


def num_steps(group: Group) -> int:
    """Returns the steps of each trial of a group."""
    return sum(phase.num_steps for phase in group.program.phases)


def num_macs(group: Group) -> float:
    """Returns the multiply-accumulates of a trial's steps: three passes over what trains, one over what is not kept."""
    first, total = group.trials[0], 0.0
    by_block = {block.name: block.num_macs for block in block_costs(first.model, first.size_px)}
    for phase in group.program.phases:
        blocks = first.model.blocks
        below = blocks[: blocks.index(phase.prefix) + 1] if phase.prefix is not None else ()
        of_frozen, of_all = sum(by_block[block] for block in below), sum(by_block.values())
        passes = 3 * (of_all - of_frozen) + (0 if phase.keeps_prefix else of_frozen)
        total += passes * phase.num_steps * phase.batch_size
    return total
