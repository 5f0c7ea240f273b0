"""The loop on the host: trials run side by side as one compiled program, by an executor (`jaxft.study.executors`).

Every array of a trial has a leading trial axis, whatever the executor; frozen leaves and images have none and are
shared.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxft.core import interrupts
from jaxft.data.streaming import Pixels, Stream
from jaxft.study.chunk.chunk_state import ChunkState, Position, initial_chunk_state
from jaxft.study.chunk.compiled import MOST_STEPS, make_init_states, make_run_steps
from jaxft.study.chunk.epochs import end_epoch, epoch_ended
from jaxft.study.chunk.lanes import Chunk, Lane, Outcome, SharedImages, stack
from jaxft.study.chunk.outcomes import TrialVariables, plain_params, read_outcomes
from jaxft.study.chunk.phase_data import Inputs, PhaseData, prepare_phase_data, shared_frozen
from jaxft.study.chunk.program import Program
from jaxft.study.chunk.resuming import CheckpointPolicy, Saver
from jaxft.study.executors import Executor, Sequential, Vmap
from jaxft.study.services import Services
from jaxft.training.state import split_variables

STRETCH_SECONDS = 1.0  # after which the host checks for a signal, and whether a checkpoint is due


def run_chunk(
    program: Program,
    lanes: Sequence[Lane],
    images: SharedImages | Pixels,
    executor: Executor | None = None,
    services: Services | None = None,
    policy: CheckpointPolicy | None = None,
) -> list[Outcome]:
    """Returns the outcome of trials that run side by side, one a lane.

    Args:
      images: [n, h, w, 3] uint8, or a stream of as many; with what identifies them if activations of frozen layers are
        to be kept.
      executor: how they share the machine; if None, in turn for one, else under `vmap`.
      services: feature cache, listener and clock; if None, no activations are kept, and warnings are printed.
      policy: where checkpoints are saved, and resumed from; if None, nowhere.

    Raises:
      Stopped: the process was told to end (`jaxft.core.interrupts`); the state is saved.
    """
    executor = executor or (Vmap(len(lanes)) if len(lanes) > 1 else Sequential())
    shared = images if isinstance(images, SharedImages) else SharedImages(images)
    run = _Run(Chunk(program, lanes, executor), shared, services or Services(), Saver(policy or CheckpointPolicy()))
    return run.to_the_end(policy or CheckpointPolicy())


class _Run:
    """A chunk at work: its phases one after another, steps in stretches of about a second, evaluations between them.

    The device always has a stretch to go on with: the metrics of one are read when the next has been dispatched.
    """

    def __init__(self, chunk: Chunk, images: SharedImages, services: Services, saver: Saver):
        self.chunk, self.services, self.saver = chunk, services, saver
        executor, lanes = chunk.executor, chunk.lanes
        self.hparams = executor.put(stack([lane.hparams for lane in lanes]))
        if not isinstance(images.pixels, Stream):
            images = dataclasses.replace(images, pixels=executor.put_shared(images.pixels))
        self.inputs = Inputs(images, executor.put(np.stack([lane.labels for lane in lanes])))
        self.variables = [TrialVariables(dict(lane.params), dict(lane.batch_stats)) for lane in lanes]
        self.position = Position()
        self.chunk_state: ChunkState | None = None
        self._ahead: _DispatchedSteps | None = None
        self._length = 1  # steps of the next stretch
        self._read_at = 0.0

    def to_the_end(self, policy: CheckpointPolicy) -> list[Outcome]:
        """Runs the phases from where the last checkpoint is, and returns the outcomes."""
        if not self.chunk.program.phases:
            raise ValueError("a program has one phase at least.")
        first = self.saver.resume_at.phase if self.saver.resume_at else 0
        try:
            for number in range(first, len(self.chunk.program.phases)):
                chunk_state = self._begin_phase(number)
                with self.services.clock.of("features"):
                    phase_data = prepare_phase_data(self.chunk, number, self._frozen, self.inputs, self.services)
                self._run_phase(phase_data, chunk_state, policy)
                self._end_phase(chunk_state)
            with self.services.clock.of("evaluate"):
                phase_data = (
                    phase_data.with_images(self.inputs) if self.chunk.program.test_crops == "ten" else phase_data
                )
                seconds = self.saver.seconds(chunk_state) / len(self.chunk.lanes)
                return read_outcomes(self.chunk, phase_data, chunk_state, self.variables, seconds)
        except interrupts.Stopped:
            if self.chunk_state is not None:
                self._settle(self.chunk_state)
                self.saver.save(self.position, self.chunk_state)
            raise

    def _begin_phase(self, number: int) -> ChunkState:
        """Places the variables of a phase, and returns its carry: that of a checkpoint, or of its start."""
        program, lanes, executor = self.chunk.program, self.chunk.lanes, self.chunk.executor
        phase = program.phases[number]
        splits = [split_variables(phase, variables.params, variables.batch_stats) for variables in self.variables]
        self._frozen = executor.put_shared(shared_frozen([frozen for _, _, frozen in splits]))
        keys = [lane.augment_key if phase.views else jax.random.fold_in(lane.augment_key, number) for lane in lanes]
        trainable, tracked, device_keys = executor.put(
            (stack([s[0] for s in splits]), stack([s[1] for s in splits]), stack(keys))
        )
        state = executor.put(make_init_states(phase)(trainable, tracked, self.hparams, device_keys))
        start = initial_chunk_state(self.chunk_state, state, program, phase, len(lanes))
        self.position, self.chunk_state = self.saver.load(Position(number), start)
        self._length, self._read_at = 1, 0.0
        return self.chunk_state

    def _run_phase(self, phase_data: PhaseData, chunk_state: ChunkState, policy: CheckpointPolicy) -> None:
        """Runs the epochs of a phase that are left; no more where all trials have diverged in the last one."""
        program, number = self.chunk.program, self.position.phase
        ends, before = program.epoch_ends[number], program.epochs_before(number)
        for epoch in range(self.position.epoch, len(ends)):
            begin, end = ends[epoch - 1] if epoch else 0, ends[epoch]
            self._run_steps(phase_data, chunk_state, begin, end)
            with self.services.clock.of("evaluate"):
                end_epoch(self.chunk, phase_data, chunk_state, before + epoch, end - begin)
            self.position = dataclasses.replace(self.position, epoch=epoch + 1)
            self._take_snapshot(policy, chunk_state, before + epoch + 1)
            if chunk_state.diverged.all() and number == len(program.phases) - 1:
                return
            self.services.emit(epoch_ended(self.chunk.lanes, chunk_state, before + epoch))
            if self.saver.is_due:
                self.saver.save(self.position, chunk_state)

    def _run_steps(self, phase_data: PhaseData, chunk_state: ChunkState, begin: int, end: int) -> None:
        """Runs the steps of an epoch that are left, which are those from `begin` to `end` of the phase."""
        run_steps = make_run_steps(phase_data.phase, self.chunk.executor)
        while self.position.step < end:
            interrupts.check()
            step = self.position.step
            with self.services.clock.of("train"):
                images, most = phase_data.at_step(step)
                count = min(self._length, end - step, most)
                began = time.monotonic()
                chunk_state.state, metrics = run_steps(
                    count,
                    chunk_state.state,
                    self.hparams,
                    phase_data.labels,
                    phase_data.indices,
                    phase_data.frozen,
                    images,
                )
                self.position = dataclasses.replace(self.position, step=step + count)
                before, self._ahead = self._ahead, _DispatchedSteps(step - begin, count, metrics, began)
                if before is not None:
                    self._length = self._read(before, chunk_state)
            if self.saver.is_due:
                self._settle(chunk_state)
                self.saver.save(self.position, chunk_state)
        with self.services.clock.of("train"):
            self._settle(chunk_state)

    def _settle(self, chunk_state: ChunkState) -> None:
        """Waits until the device has done all that it has been given."""
        if self._ahead is not None:
            self._read(self._ahead, chunk_state)
            self._ahead = None

    def _read(self, dispatched: "_DispatchedSteps", chunk_state: ChunkState) -> int:
        """Waits for the metrics of a stretch and keeps them; returns how many steps take about a second."""
        metrics = np.concatenate([np.asarray(piece) for piece in dispatched.metrics], axis=1)[:, : dispatched.num_steps]
        chunk_state.metrics[:, dispatched.first : dispatched.first + dispatched.num_steps] = metrics
        now = time.monotonic()
        a_step = (now - max(dispatched.began, self._read_at)) / dispatched.num_steps
        self._read_at = now
        return max(1, min(MOST_STEPS, int(STRETCH_SECONDS / a_step)))

    def _take_snapshot(self, policy: CheckpointPolicy, chunk_state: ChunkState, epoch: int) -> None:
        """Keeps the first trial's weights, where those after an epoch, from 1, are asked for."""
        if epoch in policy.snapshots:
            params, batch_stats = jax.tree.map(lambda leaf: leaf[0], jax.device_get(chunk_state.state.evaluated))
            variables = self.variables[0]
            policy.snapshots[epoch](
                plain_params(variables.params | params, self.chunk.lanes[0]), variables.batch_stats | batch_stats
            )

    def _end_phase(self, chunk_state: ChunkState) -> None:
        """Takes over what the phase trained into the variables of each trial."""
        params, batch_stats = jax.device_get((chunk_state.state.params, chunk_state.state.batch_stats))
        for i, variables in enumerate(self.variables):
            self.variables[i] = TrialVariables(
                variables.params | {name: leaf[i] for name, leaf in params.items()},
                variables.batch_stats | {name: leaf[i] for name, leaf in batch_stats.items()},
            )


class _DispatchedSteps(NamedTuple):
    """Steps that have been dispatched: the first, counted in its epoch, how many, their metrics on the device, when."""

    first: int
    num_steps: int
    metrics: Sequence[jax.Array]
    began: float
