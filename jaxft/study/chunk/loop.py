"""The host's loop: trials run side by side as one compiled program, by an executor (`jaxft.study.executors`).

Every array of a trial has a leading trial axis, whatever the executor; frozen leaves and images have none and are
shared.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from jaxft.core import interrupts
from jaxft.core.events import Listener, print_warnings
from jaxft.core.timing import Clock
from jaxft.data.streaming import Pixels, Stream
from jaxft.features.cache import FeatureCache
from jaxft.study.chunk.carry import Carry, next_carry
from jaxft.study.chunk.compiled import MOST_STEPS, make_init_states, make_run_steps
from jaxft.study.chunk.epochs import end_epoch, epoch_ended
from jaxft.study.chunk.feed import Feed, make_feed, shared_frozen
from jaxft.study.chunk.lanes import Lane, Outcome, stack
from jaxft.study.chunk.outcomes import plain_params, read_outcomes
from jaxft.study.chunk.program import Program
from jaxft.study.chunk.resuming import Checkpoints, Saver
from jaxft.study.executors import Executor
from jaxft.training.optimizers import HParams
from jaxft.training.state import Flat, State, split_variables

STRETCH_SECONDS = 1.0  # after which the host looks whether it is told to end, or to save


def run_chunk(
    program: Program,
    lanes: Sequence[Lane],
    images: Pixels,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 300.0,
    features: FeatureCache | None = None,
    fingerprint: str = "",
    emit: Listener = print_warnings,
    kind: str = "train",
    executor: Executor | None = None,
    clock: Clock | None = None,
    snapshots: Mapping[int, Callable[[Flat, Flat], None]] | None = None,
) -> list[Outcome]:
    """Returns the outcome of trials that run side by side, one a lane.

    Args:
      images: [n, h, w, 3] uint8, or a stream of as many.
      checkpoints: where to save the state every `checkpoint_seconds` and when told to end, and to go on from.
      features: where the outputs of frozen prefixes are kept; none: they are computed anew at every step.
      fingerprint: what identifies the images, for the features.
      emit: hears of each epoch, and how far the features are.
      kind: what the trials are in events about epochs: 'train', or 'source'.
      executor: how they share the machine; none: in turn where there is one, else under `vmap`.
      clock: told where the time goes.
      snapshots: told the first trial's parameters and statistics after epochs, by their numbers from 1.

    Raises `jaxft.core.interrupts.Stopped` where the process was told to end.
    """
    executor = executor or Executor("vmap" if len(lanes) > 1 else "in_turn", len(lanes))
    clock = clock or Clock()
    labels = executor.place(np.stack([lane.labels for lane in lanes]))
    hparams = executor.place(stack([lane.hparams for lane in lanes]))
    params = [dict(lane.params) for lane in lanes]
    stats = [dict(lane.batch_stats) for lane in lanes]
    images = images if isinstance(images, Stream) else executor.place_shared(images)
    saver = Saver(checkpoints, checkpoint_seconds)
    carry: Carry | None = None
    feed: Feed | None = None

    def keep(epoch: int, state: State) -> None:
        if snapshots and epoch in snapshots:
            own, tracked = jax.tree.map(lambda leaf: leaf[0], jax.device_get(state.evaluated))
            snapshots[epoch](plain_params(params[0] | own, lanes[0]), stats[0] | tracked)

    epoch = first_step = first_place = 0
    for number, (phase, ends) in enumerate(zip(program.phases, program.epoch_ends)):
        # Its places: the start, and after each step and each evaluation.
        after = first_place + 1 + phase.num_steps + len(ends)
        if saver.resume_at is None or saver.resume_at < after:
            splits = [split_variables(phase, p, s) for p, s in zip(params, stats)]
            frozen = executor.place_shared(shared_frozen([split[2] for split in splits]))
            drawn = [
                lane.augment_key if phase.views else jax.random.fold_in(lane.augment_key, number) for lane in lanes
            ]
            live, tracked, keys = executor.place(
                (stack([s[0] for s in splits]), stack([s[1] for s in splits]), stack(drawn))
            )
            state = executor.place(make_init_states(phase)(live, tracked, hparams, keys))
            carry = saver.load(next_carry(carry, state, program, phase, len(lanes)))
            with clock.of("features"):
                feed = make_feed(
                    program, phase, frozen, lanes, first_step, images, labels, executor, features, fingerprint, emit
                )
            epochs = range(epoch, epoch + len(ends))
            run = _Run(program, feed, lanes, executor, clock, carry, hparams, first_place, epochs, ends)
            try:
                run.to_the_end(emit, kind, saver, keep)
            except interrupts.Stopped:
                run.settle()
                saver.save(run.place, carry)
                raise
            trained, moved = jax.device_get((carry.state.params, carry.state.batch_stats))
            for i in range(len(lanes)):
                params[i] |= {name: leaf[i] for name, leaf in trained.items()}
                stats[i] |= {name: leaf[i] for name, leaf in moved.items()}
        epoch, first_step, first_place = epoch + len(ends), first_step + phase.num_steps, after

    if carry is None or feed is None:
        raise ValueError("a program has one phase at least.")
    try:
        with clock.of("evaluate"):
            tested = feed.of_images(images, labels) if program.test_crops == "ten" else feed
            return read_outcomes(program, tested, executor, carry, lanes, params, stats, saver)
    except interrupts.Stopped:
        saver.save(first_place - 1, carry)
        raise


@dataclass
class _Run:
    """A chunk in one phase: steps in stretches of about a second, and evaluations between them."""

    program: Program
    feed: "Feed"
    lanes: Sequence[Lane]
    executor: Executor
    clock: Clock
    carry: Carry
    hparams: HParams
    first_place: int
    epochs: range
    ends: Sequence[int]
    step: int = field(init=False)  # steps of the phase that the device has been given
    _ahead: "_Stretch | None" = field(init=False, default=None)
    _read_at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.step = int(np.asarray(self.carry.state.step)[0])

    @property
    def place(self) -> int:
        """Returns how far the chunk is, over all phases."""
        return self.first_place + self.step + int(self.carry.epochs_done) - self.epochs.start

    def to_the_end(self, emit: Listener, kind: str, saver: Saver, keep: Callable[[int, State], None]) -> None:
        """Runs what is left of the phase; `keep` is called with the state after each evaluation.

        The device always has a stretch to go on with: the metrics of one are read when the next has been dispatched.
        """
        carry, feed = self.carry, self.feed
        run_steps = make_run_steps(feed.phase, self.executor)
        is_last = self.epochs.stop == self.program.num_epochs
        begin, length = 0, 1
        for epoch, end in zip(self.epochs, self.ends):
            if epoch >= carry.epochs_done:
                while self.step < end:
                    interrupts.check()
                    with self.clock.of("train"):
                        images, most = feed.at_step(self.step)
                        count = min(length, end - self.step, most)
                        began = time.monotonic()
                        carry.state, metrics = run_steps(
                            count, carry.state, self.hparams, feed.labels, feed.indices, feed.frozen, images
                        )
                        before, self._ahead = self._ahead, _Stretch(self.step - begin, count, metrics, began)
                        self.step += count
                        if before is not None:
                            length = self._read(before)
                    if saver.is_due:
                        self.settle()
                        saver.save(self.place, carry)
                with self.clock.of("train"):
                    self.settle()
                with self.clock.of("evaluate"):
                    end_epoch(self.program, feed, self.executor, carry, epoch, end - begin, self.lanes)
                keep(epoch + 1, carry.state)
                if carry.diverged.all() and is_last:
                    return
                emit(epoch_ended(kind, carry, epoch, self.lanes))
                if saver.is_due:
                    saver.save(self.place, carry)
            begin = end

    def settle(self) -> None:
        """Waits until the device has done all that it has been given."""
        if self._ahead is not None:
            self._read(self._ahead)
            self._ahead = None

    def _read(self, stretch: "_Stretch") -> int:
        """Notes the metrics of a stretch, which is waited for; returns how many steps take about a second."""
        metrics = np.concatenate([np.asarray(part) for part in stretch.metrics], axis=1)[:, : stretch.num_steps]
        self.carry.metrics[:, stretch.first : stretch.first + stretch.num_steps] = metrics
        now = time.monotonic()
        a_step = (now - max(stretch.began, self._read_at)) / stretch.num_steps
        self._read_at = now
        return max(1, min(MOST_STEPS, int(STRETCH_SECONDS / a_step)))


class _Stretch(NamedTuple):
    """Steps that have been dispatched: the first, counted in its epoch, how many, their metrics on the device, when."""

    first: int
    num_steps: int
    metrics: Sequence[jax.Array]
    began: float
