"""The host loop: runs the steps and evaluations of a chunk of trials with an executor (`jaxft.study.executors`).

With every executor, all arrays of a trial have a leading trial axis. Frozen leaves and images have none; all trials
share them.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxft.core import interrupts
from jaxft.core.events import Warned
from jaxft.data.streaming import Pixels, Stream
from jaxft.store.checkpoints import DamagedCheckpoint
from jaxft.study.chunk.chunk_state import ChunkState, Position, initial_chunk_state
from jaxft.study.chunk.compiled import MAX_LOOP_STEPS, make_init_states, make_run_steps
from jaxft.study.chunk.epochs import end_epoch, epoch_ended
from jaxft.study.chunk.lanes import Chunk, Lane, Outcome, SharedImages, stack
from jaxft.study.chunk.outcomes import TrialVariables, plain_params, read_outcomes
from jaxft.study.chunk.phase_data import Inputs, PhaseData, prepare_phase_data, shared_frozen
from jaxft.study.chunk.program import Program
from jaxft.study.chunk.resuming import CheckpointPolicy, Saver, Snapshots
from jaxft.study.executors import Executor, Sequential, Vmap
from jaxft.study.services import Services
from jaxft.training.state import split_variables

LOOP_SECONDS = 1.0  # target duration of a loop of steps; the host checks for signals and saves between loops


def run_chunk(
    program: Program,
    trials: Sequence[Lane],
    images: SharedImages | Pixels,
    executor: Executor | None = None,
    services: Services | None = None,
    policy: CheckpointPolicy | None = None,
) -> list[Outcome]:
    """Returns the outcomes of trials that run together, in the order of `trials`.

    Args:
      program: the program of the trials.
      trials: the initial arrays of each trial.
      images: [n, h, w, 3] uint8, or a stream of n images. To cache activations of frozen layers, pass `SharedImages`,
        which adds a fingerprint of the images.
      executor: if None, sequential for one trial and `vmap` for several.
      services: feature cache, listener and clock; if None, activations are cached only where a phase requires it, and
        warnings are printed.
      policy: where and when checkpoints are saved, and from where the chunk resumes; if None, no checkpoints are saved.

    Raises:
      jaxft.core.interrupts.Stopped: the process received a signal to stop; the state is saved.
      UserError: a phase needs all images in every step, but they are streamed.
      ValueError: the program has no phases, or frozen leaves differ between the trials.
    """
    executor = executor or (Vmap(len(trials)) if len(trials) > 1 else Sequential())
    shared = images if isinstance(images, SharedImages) else SharedImages(images)
    run = _Run(Chunk(program, trials, executor), shared, services or Services(), Saver(policy or CheckpointPolicy()))
    return run.outcomes(policy or CheckpointPolicy())


class _Run:
    """A running chunk: runs its phases in loops of steps, about one second each, and evaluates after each epoch.

    The host reads the metrics of a loop after it has dispatched the next loop, so the device is not idle meanwhile.
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
        self._dispatched: _DispatchedSteps | None = None
        self._loop_steps = 1  # steps of the next loop
        self._last_read = 0.0

    def outcomes(self, policy: CheckpointPolicy) -> list[Outcome]:
        """Runs the phases and returns the outcomes.

        The chunk resumes from the last checkpoint. If it is damaged, the chunk starts again, with a warning.

        Raises:
          jaxft.core.interrupts.Stopped: the process received a signal to stop; the state is saved.
          ValueError: the program has no phases.
        """
        if not self.chunk.program.phases:
            raise ValueError("the program has no phases; it needs one or more.")
        try:
            return self._run_phases(policy)
        except DamagedCheckpoint as error:
            self.services.emit(Warned(str(error).removesuffix(".")))
            return self._run_phases(policy)

    def _run_phases(self, policy: CheckpointPolicy) -> list[Outcome]:
        """Runs the phases, from the checkpoint that is not loaded yet if there is one, and returns the outcomes."""
        first = self.saver.resume_at.phase if self.saver.resume_at else 0
        try:
            for number in range(first, len(self.chunk.program.phases)):
                chunk_state = self._begin_phase(number)
                with self.services.clock.measure("features"):
                    phase_data = prepare_phase_data(self.chunk, number, self._frozen, self.inputs, self.services)
                self._run_phase(phase_data, chunk_state, policy)
                self._end_phase(chunk_state)
            with self.services.clock.measure("evaluate"):
                phase_data = (
                    phase_data.with_images(self.inputs) if self.chunk.program.test_crops == "ten" else phase_data
                )
                seconds = self.saver.seconds(chunk_state) / len(self.chunk.lanes)
                return read_outcomes(self.chunk, phase_data, chunk_state, self.variables, seconds)
        except interrupts.Stopped:
            if self.chunk_state is not None:
                self._finish_dispatched(self.chunk_state)
                self.saver.save(self.position, self.chunk_state)
            raise

    def _begin_phase(self, number: int) -> ChunkState:
        """Places the variables of a phase on the devices, and returns its saved or initial state."""
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
        self._loop_steps, self._last_read = 1, 0.0
        return self.chunk_state

    def _run_phase(self, phase_data: PhaseData, chunk_state: ChunkState, policy: CheckpointPolicy) -> None:
        """Runs the remaining epochs of a phase; stops early if it is the last phase and all trials have diverged."""
        program, number = self.chunk.program, self.position.phase
        ends, before = program.epoch_ends[number], program.epochs_before(number)
        for epoch in range(self.position.epoch, len(ends)):
            begin, end = ends[epoch - 1] if epoch else 0, ends[epoch]
            self._run_steps(phase_data, chunk_state, begin, end, policy.snapshots)
            with self.services.clock.measure("evaluate"):
                end_epoch(self.chunk, phase_data, chunk_state, before + epoch, end - begin)
            self.position = dataclasses.replace(self.position, epoch=epoch + 1)
            self._take_snapshot(policy, chunk_state, before + epoch + 1)
            if chunk_state.diverged.all() and number == len(program.phases) - 1:
                return
            self.services.emit(epoch_ended(self.chunk.lanes, chunk_state, before + epoch))
            if self.saver.is_due:
                self.saver.save(self.position, chunk_state)

    def _run_steps(
        self, phase_data: PhaseData, chunk_state: ChunkState, begin: int, end: int, snapshots: Snapshots
    ) -> None:
        """Runs the remaining steps of an epoch, which is the steps [begin, end) of the phase."""
        run_steps = make_run_steps(phase_data.phase, self.chunk.executor)
        steps_before = self.chunk.program.steps_before(self.position.phase)
        while self.position.step < end:
            interrupts.check()
            step = self.position.step
            with self.services.clock.measure("train"):
                images, max_steps = phase_data.at_step(step)
                count = min(self._loop_steps, end - step, max_steps, snapshots.until_next(steps_before + step))
                start_time = time.monotonic()
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
                before, self._dispatched = self._dispatched, _DispatchedSteps(step - begin, count, metrics, start_time)
                if before is not None:
                    self._loop_steps = self._read_metrics(before, chunk_state)
            if steps_before + self.position.step in snapshots.steps:
                self._take_step_snapshot(snapshots, chunk_state, steps_before + self.position.step)
            if self.saver.is_due:
                self._finish_dispatched(chunk_state)
                self.saver.save(self.position, chunk_state)
        with self.services.clock.measure("train"):
            self._finish_dispatched(chunk_state)

    def _finish_dispatched(self, chunk_state: ChunkState) -> None:
        """Waits until the device has run all dispatched steps."""
        if self._dispatched is not None:
            self._read_metrics(self._dispatched, chunk_state)
            self._dispatched = None

    def _read_metrics(self, dispatched: "_DispatchedSteps", chunk_state: ChunkState) -> int:
        """Waits for the metrics of dispatched steps, stores them, and returns the number of steps of the next loop."""
        metrics = np.concatenate([np.asarray(piece) for piece in dispatched.metrics], axis=1)[:, : dispatched.num_steps]
        chunk_state.metrics[:, dispatched.first : dispatched.first + dispatched.num_steps] = metrics
        now = time.monotonic()
        step_seconds = (now - max(dispatched.start_time, self._last_read)) / dispatched.num_steps
        self._last_read = now
        return max(1, min(MAX_LOOP_STEPS, int(LOOP_SECONDS / step_seconds)))

    def _take_snapshot(self, policy: CheckpointPolicy, chunk_state: ChunkState, epoch: int) -> None:
        """Calls the snapshot function of this epoch, if there is one, with the weights of the first trial."""
        if epoch in policy.snapshots.by_epoch:
            params, batch_stats = jax.tree.map(lambda leaf: leaf[0], jax.device_get(chunk_state.state.evaluated))
            variables = self.variables[0]
            policy.snapshots.by_epoch[epoch](
                plain_params(variables.params | params, self.chunk.lanes[0]), variables.batch_stats | batch_stats
            )

    def _take_step_snapshot(self, snapshots: Snapshots, chunk_state: ChunkState, step: int) -> None:
        """Stores the weights of each trial after `step` steps: the trained weights, not their average."""
        state = chunk_state.state
        params, batch_stats = jax.device_get((state.params, state.batch_stats))
        for i, (variables, lane) in enumerate(zip(self.variables, self.chunk.lanes)):
            trained = [{name: leaf[i] for name, leaf in tree.items()} for tree in (params, batch_stats)]
            all_params = plain_params(variables.params | trained[0], lane)
            snapshots.save(i, step, all_params, variables.batch_stats | trained[1])

    def _end_phase(self, chunk_state: ChunkState) -> None:
        """Updates the variables of each trial with the trained leaves of the phase."""
        params, batch_stats = jax.device_get((chunk_state.state.params, chunk_state.state.batch_stats))
        for i, variables in enumerate(self.variables):
            self.variables[i] = TrialVariables(
                variables.params | {name: leaf[i] for name, leaf in params.items()},
                variables.batch_stats | {name: leaf[i] for name, leaf in batch_stats.items()},
            )


class _DispatchedSteps(NamedTuple):
    """Steps that the host has dispatched, and whose metrics it has not read yet.

    Attributes:
      first: number of the first step in its epoch, from 0.
      num_steps: number of steps.
      metrics: arrays [trials, steps, 2] on the device: loss and accuracy of each step.
      start_time: time of the dispatch (`time.monotonic`), in seconds.
    """

    first: int
    num_steps: int
    metrics: Sequence[jax.Array]
    start_time: float
