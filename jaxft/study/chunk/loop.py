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
from jaxft.study.chunk.carry import Carry, Position, next_carry
from jaxft.study.chunk.compiled import MOST_STEPS, make_init_states, make_run_steps
from jaxft.study.chunk.epochs import end_epoch, epoch_ended
from jaxft.study.chunk.feed import Feed, Inputs, make_feed, shared_frozen
from jaxft.study.chunk.lanes import Chunk, Lane, Outcome, SharedImages, stack
from jaxft.study.chunk.outcomes import Whole, plain_params, read_outcomes
from jaxft.study.chunk.program import Program
from jaxft.study.chunk.resuming import Keeping, Saver
from jaxft.study.executors import Executor, InTurn, Vmap
from jaxft.study.services import Services
from jaxft.training.state import split_variables

STRETCH_SECONDS = 1.0  # after which the host checks for a signal, and whether a checkpoint is due


def run_chunk(
    program: Program,
    lanes: Sequence[Lane],
    images: SharedImages | Pixels,
    executor: Executor | None = None,
    services: Services | None = None,
    keeping: Keeping | None = None,
) -> list[Outcome]:
    """Returns the outcome of trials that run side by side, one a lane.

    Args:
      images: [n, h, w, 3] uint8, or a stream of as many; with what identifies them if activations of frozen layers are
        to be kept.
      executor: how they share the machine; if None, in turn for one, else under `vmap`.
      services: feature cache, listener and clock; if None, no activations are kept, and warnings are printed.
      keeping: where checkpoints are saved, and resumed from; if None, nowhere.

    Raises:
      Stopped: the process was told to end (`jaxft.core.interrupts`); the state is saved.
    """
    executor = executor or (Vmap(len(lanes)) if len(lanes) > 1 else InTurn())
    shared = images if isinstance(images, SharedImages) else SharedImages(images)
    run = _Run(Chunk(program, lanes, executor), shared, services or Services(), Saver(keeping or Keeping()))
    return run.to_the_end(keeping or Keeping())


class _Run:
    """A chunk at work: its phases one after another, steps in stretches of about a second, evaluations between them.

    The device always has a stretch to go on with: the metrics of one are read when the next has been dispatched.
    """

    def __init__(self, chunk: Chunk, images: SharedImages, services: Services, saver: Saver):
        self.chunk, self.services, self.saver = chunk, services, saver
        executor, lanes = chunk.executor, chunk.lanes
        self.hparams = executor.place(stack([lane.hparams for lane in lanes]))
        if not isinstance(images.pixels, Stream):
            images = dataclasses.replace(images, pixels=executor.place_shared(images.pixels))
        self.inputs = Inputs(images, executor.place(np.stack([lane.labels for lane in lanes])))
        self.whole = [Whole(dict(lane.params), dict(lane.batch_stats)) for lane in lanes]
        self.position = Position()
        self.carry: Carry | None = None
        self._ahead: _Stretch | None = None
        self._length = 1  # steps of the next stretch
        self._read_at = 0.0

    def to_the_end(self, keeping: Keeping) -> list[Outcome]:
        """Runs the phases from where the last checkpoint is, and returns the outcomes."""
        if not self.chunk.program.phases:
            raise ValueError("a program has one phase at least.")
        first = self.saver.resume_at.phase if self.saver.resume_at else 0
        try:
            for number in range(first, len(self.chunk.program.phases)):
                carry = self._begin_phase(number)
                with self.services.clock.of("features"):
                    feed = make_feed(self.chunk, number, self._frozen, self.inputs, self.services)
                self._run_phase(feed, carry, keeping)
                self._end_phase(carry)
            with self.services.clock.of("evaluate"):
                feed = feed.of_images(self.inputs) if self.chunk.program.test_crops == "ten" else feed
                seconds = self.saver.seconds(carry) / len(self.chunk.lanes)
                return read_outcomes(self.chunk, feed, carry, self.whole, seconds)
        except interrupts.Stopped:
            if self.carry is not None:
                self._settle(self.carry)
                self.saver.save(self.position, self.carry)
            raise

    def _begin_phase(self, number: int) -> Carry:
        """Places the variables of a phase, and returns its carry: that of a checkpoint, or of its start."""
        program, lanes, executor = self.chunk.program, self.chunk.lanes, self.chunk.executor
        phase = program.phases[number]
        splits = [split_variables(phase, whole.params, whole.batch_stats) for whole in self.whole]
        self._frozen = executor.place_shared(shared_frozen([frozen for _, _, frozen in splits]))
        keys = [lane.augment_key if phase.views else jax.random.fold_in(lane.augment_key, number) for lane in lanes]
        live, tracked, placed_keys = executor.place(
            (stack([s[0] for s in splits]), stack([s[1] for s in splits]), stack(keys))
        )
        state = executor.place(make_init_states(phase)(live, tracked, self.hparams, placed_keys))
        start = next_carry(self.carry, state, program, phase, len(lanes))
        self.position, self.carry = self.saver.load(Position(number), start)
        self._length, self._read_at = 1, 0.0
        return self.carry

    def _run_phase(self, feed: Feed, carry: Carry, keeping: Keeping) -> None:
        """Runs the epochs of a phase that are left; no more where all trials have diverged in the last one."""
        program, number = self.chunk.program, self.position.phase
        ends, before = program.epoch_ends[number], program.epochs_before(number)
        for epoch in range(self.position.epoch, len(ends)):
            begin, end = ends[epoch - 1] if epoch else 0, ends[epoch]
            self._run_steps(feed, carry, begin, end)
            with self.services.clock.of("evaluate"):
                end_epoch(self.chunk, feed, carry, before + epoch, end - begin)
            self.position = dataclasses.replace(self.position, epoch=epoch + 1)
            self._take_snapshot(keeping, carry, before + epoch + 1)
            if carry.diverged.all() and number == len(program.phases) - 1:
                return
            self.services.emit(epoch_ended(self.chunk.lanes, carry, before + epoch))
            if self.saver.is_due:
                self.saver.save(self.position, carry)

    def _run_steps(self, feed: Feed, carry: Carry, begin: int, end: int) -> None:
        """Runs the steps of an epoch that are left, which are those from `begin` to `end` of the phase."""
        run_steps = make_run_steps(feed.phase, self.chunk.executor)
        while self.position.step < end:
            interrupts.check()
            step = self.position.step
            with self.services.clock.of("train"):
                images, most = feed.at_step(step)
                count = min(self._length, end - step, most)
                began = time.monotonic()
                carry.state, metrics = run_steps(
                    count, carry.state, self.hparams, feed.labels, feed.indices, feed.frozen, images
                )
                self.position = dataclasses.replace(self.position, step=step + count)
                before, self._ahead = self._ahead, _Stretch(step - begin, count, metrics, began)
                if before is not None:
                    self._length = self._read(before, carry)
            if self.saver.is_due:
                self._settle(carry)
                self.saver.save(self.position, carry)
        with self.services.clock.of("train"):
            self._settle(carry)

    def _settle(self, carry: Carry) -> None:
        """Waits until the device has done all that it has been given."""
        if self._ahead is not None:
            self._read(self._ahead, carry)
            self._ahead = None

    def _read(self, stretch: "_Stretch", carry: Carry) -> int:
        """Waits for the metrics of a stretch and keeps them; returns how many steps take about a second."""
        metrics = np.concatenate([np.asarray(part) for part in stretch.metrics], axis=1)[:, : stretch.num_steps]
        carry.metrics[:, stretch.first : stretch.first + stretch.num_steps] = metrics
        now = time.monotonic()
        a_step = (now - max(stretch.began, self._read_at)) / stretch.num_steps
        self._read_at = now
        return max(1, min(MOST_STEPS, int(STRETCH_SECONDS / a_step)))

    def _take_snapshot(self, keeping: Keeping, carry: Carry, epoch: int) -> None:
        """Keeps the first trial's weights, where those after an epoch, from 1, are asked for."""
        if epoch in keeping.snapshots:
            params, batch_stats = jax.tree.map(lambda leaf: leaf[0], jax.device_get(carry.state.evaluated))
            whole = self.whole[0]
            keeping.snapshots[epoch](
                plain_params(whole.params | params, self.chunk.lanes[0]), whole.batch_stats | batch_stats
            )

    def _end_phase(self, carry: Carry) -> None:
        """Takes over what the phase trained into the variables of each trial."""
        params, batch_stats = jax.device_get((carry.state.params, carry.state.batch_stats))
        for i, whole in enumerate(self.whole):
            self.whole[i] = Whole(
                whole.params | {name: leaf[i] for name, leaf in params.items()},
                whole.batch_stats | {name: leaf[i] for name, leaf in batch_stats.items()},
            )


class _Stretch(NamedTuple):
    """Steps that have been dispatched: the first, counted in its epoch, how many, their metrics on the device, when."""

    first: int
    num_steps: int
    metrics: Sequence[jax.Array]
    began: float
