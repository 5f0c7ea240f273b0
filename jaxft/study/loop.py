"""The host's loop: trials run side by side as one compiled program, by an executor (`jaxft.study.executors`).

Every array of a trial has a leading trial axis, whatever the executor; frozen leaves and images have none and are
shared.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config import Execution
from jaxft.core import interrupts
from jaxft.core.errors import UserError, say_warnings
from jaxft.core.metrics import mean_per_class
from jaxft.core.timing import Clock
from jaxft.data.augmentation.augment import NUM_CROPS, Changes
from jaxft.data.batches import balanced_indices, batch_indices, epoch_ends, padded_batches
from jaxft.data.streaming import Pixels, Stream, Windows, at_hand
from jaxft.features.activations import FeatureCache, Prefix, output_shape
from jaxft.models import unit_of
from jaxft.study.executors import Executor, is_out_of_memory
from jaxft.training.adapters import is_adapter, merge
from jaxft.training.evaluation import Evaluation, is_finite, make_eval_step, make_moments_step, pool_moments
from jaxft.training.optimizers import HParams
from jaxft.training.phases import Evaluated, Phase
from jaxft.training.regularization import Reference, source_network
from jaxft.training.state import Flat, Frozen, State, continue_state, init_state, split_variables
from jaxft.training.step import make_train_step

T = TypeVar("T")
CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_mean_per_class")
MOST_STEPS = 256  # of a stretch on the device
STRETCH_SECONDS = 1.0  # after which the host looks whether it is told to end, or to save
LEAST_EVAL_BATCH = 32
USUAL_EVAL_BATCH = 256  # but on a CPU, whose caches do not hold so much: there the least
MOMENTS_BATCH = 256  # most images that statistics are recalibrated on at a time


@dataclass(frozen=True)
class Program:
    """What is static in a whole trial: its phases, after which steps of each it is evaluated, what is selected.

    `test_crops` are what is looked at of test images (`train.Evaluated`); of those to select on it is the centre.
    """

    phases: tuple[Phase, ...]
    epoch_ends: tuple[tuple[int, ...], ...]
    select: str
    eval_batch_size: int
    num_train: int
    test_crops: str = "centre"

    @property
    def epochs(self) -> tuple[float, ...]:
        """Returns after how many passes over the training images each evaluation is."""
        found, before = [], 0.0
        for phase, ends in zip(self.phases, self.epoch_ends):
            a_step = 0.0 if phase.whole else phase.batch_size / self.num_train  # a fit to all images is no pass
            found += [before + end * a_step for end in ends]
            before = found[-1]
        return tuple(round(passes, 6) for passes in found)

    @property
    def num_epochs(self) -> int:
        """Returns the number of evaluations on the validation images."""
        return sum(len(ends) for ends in self.epoch_ends)


def make_program(
    phases: Sequence[Phase], select: str, eval_batch_size: int, num_train: int, test_crops: str = "centre"
) -> Program:
    """Returns the program of phases that are evaluated after each pass, or at the end where every step is over all."""
    ends = [[p.num_steps] if p.whole else epoch_ends(num_train, p.num_steps, p.batch_size) for p in phases]
    return Program(tuple(phases), tuple(map(tuple, ends)), select, eval_batch_size, num_train, test_crops)


@dataclass(frozen=True)
class Lane:
    """The arrays of one trial.

    `params` and `batch_stats` are flat and whole, as the trial begins; leaves that a phase freezes are the same in
    all lanes that run side by side. `train`, `val` and `test` are rows of the images; `balanced` says that batches
    have every class as often. `source` is the source's network, flat `params` (its own head's too, where a file has
    one) and `batch_stats`, where regularisers need it.
    """

    params: Flat
    batch_stats: Flat
    hparams: HParams
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    order_seed: int
    augment_key: jax.Array
    balanced: bool = False
    source: Mapping[str, Flat] | None = None


@dataclass
class Outcome:
    """What became of a trial. Accuracies are None where it diverged, or where there were no such images."""

    params: Flat
    batch_stats: Flat
    curves: dict[str, np.ndarray]
    diverged: bool
    selected_epoch: float | None
    val_accuracy: float | None
    test_accuracy: float | None
    val_mean_per_class: float | None
    test_mean_per_class: float | None
    test_predictions: np.ndarray
    seconds: float


class Checkpoints(Protocol):
    """Where the state of unfinished work is kept."""

    def latest(self) -> int | None:
        """Returns the place last saved."""

    def load(self, place: int, like: Any) -> Any:
        """Returns what was saved at `place`."""

    def save(self, place: int, tree: Any) -> None:
        """Keeps `tree`, of a later place than all before."""


@dataclass
class Carry:
    """Everything that a chunk of trials needs to go on from the end of a step."""

    state: State
    best: Any  # (params, batch_stats) of the best epoch so far
    best_score: np.ndarray  # [trials, 2] validation accuracy and minus loss
    best_epoch: np.ndarray  # [trials], -1 where there is none
    history: np.ndarray  # [trials, epochs, curves]
    epochs_done: np.ndarray  # [], evaluated
    metrics: np.ndarray  # [trials, most steps of an epoch, 2] loss and accuracy of the steps of this epoch
    diverged: np.ndarray  # [trials]
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def tree(self) -> dict[str, Any]:
        """Returns the carry as a tree of arrays."""
        return dict(self.__dict__)


def run_chunk(
    program: Program,
    lanes: Sequence[Lane],
    images: Pixels,
    on_epoch: Callable[[str], None] = lambda text: None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 300.0,
    features: FeatureCache | None = None,
    fingerprint: str = "",
    say: Callable[[str], None] = say_warnings,
    executor: Executor | None = None,
    clock: Clock | None = None,
    snapshots: Mapping[int, Callable[[Flat, Flat], None]] | None = None,
) -> list[Outcome]:
    """Returns the outcome of trials that run side by side, one a lane.

    Args:
      images: [n, h, w, 3] uint8, or a stream of as many.
      on_epoch: called after each epoch with a line about it.
      checkpoints: where to save the state every `checkpoint_seconds` and when told to end, and to go on from.
      features: where the outputs of frozen prefixes are kept; none: they are computed anew at every step.
      fingerprint: what identifies the images, for the features.
      say: told how far the features are.
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
    saver = _Saver(checkpoints, checkpoint_seconds)
    carry: Carry | None = None
    feed: Feed | None = None

    def keep(epoch: int, state: State) -> None:
        if snapshots and epoch in snapshots:
            own, tracked = jax.tree.map(lambda leaf: leaf[0], jax.device_get(state.evaluated))
            snapshots[epoch](_plain(params[0] | own, lanes[0]), stats[0] | tracked)

    epoch = first_step = first_place = 0
    for number, (phase, ends) in enumerate(zip(program.phases, program.epoch_ends)):
        # Its places: the start, and after each step and each evaluation.
        after = first_place + 1 + phase.num_steps + len(ends)
        if saver.resume_at is None or saver.resume_at < after:
            splits = [split_variables(phase, p, s) for p, s in zip(params, stats)]
            frozen = executor.place_shared(_shared([split[2] for split in splits]))
            drawn = [
                lane.augment_key if phase.views else jax.random.fold_in(lane.augment_key, number) for lane in lanes
            ]
            live, tracked, keys = executor.place(
                (stack([s[0] for s in splits]), stack([s[1] for s in splits]), stack(drawn))
            )
            state = executor.place(_make_init_states(phase)(live, tracked, hparams, keys))
            carry = saver.load(_next_carry(carry, state, program, phase, len(lanes)))
            with clock.of("features"):
                feed = _make_feed(
                    program, phase, frozen, lanes, first_step, images, labels, executor, features, fingerprint, say
                )
            epochs = range(epoch, epoch + len(ends))
            run = _Run(program, feed, lanes, executor, clock, carry, hparams, first_place, epochs, ends)
            try:
                run.to_the_end(on_epoch, saver, keep)
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
            return _outcomes(program, tested, executor, carry, lanes, params, stats, saver)
    except interrupts.Stopped:
        saver.save(first_place - 1, carry)
        raise


class _Saver:
    """Keeps the state of a chunk now and then, and how long it has taken."""

    def __init__(self, checkpoints: Checkpoints | None, every_seconds: float):
        self.checkpoints, self.every_seconds = checkpoints, every_seconds
        self.resume_at = checkpoints.latest() if checkpoints else None
        self.started = self.last = time.monotonic()

    def load(self, carry: Carry) -> Carry:
        """Returns what was kept, once, or else `carry`."""
        if self.checkpoints is None or self.resume_at is None:
            return carry
        place, self.resume_at = self.resume_at, None
        return Carry(**self.checkpoints.load(place, carry.tree()))

    def seconds(self, carry: Carry) -> float:
        """Returns how long the chunk has taken, before it was stopped too."""
        return float(carry.seconds) + time.monotonic() - self.started

    @property
    def is_due(self) -> bool:
        """Tells whether the last time that the state was kept is long ago."""
        return time.monotonic() - self.last >= self.every_seconds

    def save(self, place: int, carry: Carry) -> None:
        """Keeps the carry; a place that is kept already is left as it is."""
        if self.checkpoints is not None and self.checkpoints.latest() != place:
            carry.seconds = np.asarray(self.seconds(carry))
            self.started = time.monotonic()
            self.checkpoints.save(place, carry.tree())
        self.last = time.monotonic()


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

    def to_the_end(self, on_epoch: Callable[[str], None], saver: _Saver, keep: Callable[[int, State], None]) -> None:
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
                    _end_epoch(self.program, feed, self.executor, carry, epoch, end - begin, self.lanes)
                keep(epoch + 1, carry.state)
                if carry.diverged.all() and is_last:
                    return
                on_epoch("" if carry.diverged.all() else _line(carry, epoch, self.program.num_epochs))
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


@dataclass(frozen=True, eq=False)
class Feed:
    """What a phase reads: images, or what its frozen prefix says of them, and their labels [trials, images].

    `indices` are those of its batches; `place` tells where among the images that of an index is; none: there. Of a
    stream the `windows` are read.
    """

    phase: Phase
    frozen: Frozen
    images: Pixels
    labels: jax.Array
    indices: jax.Array
    place: np.ndarray | None = None
    windows: Windows | None = None

    @property
    def resting(self) -> Frozen:
        """Returns what is frozen, without what regularisers need: the same program evaluates with and without."""
        return self.frozen._replace(reference=None)

    def at_step(self, step: int) -> tuple[Any, int]:
        """Returns images that a step of the phase can read, and for how many steps from it on they will do."""
        return (self.images, MOST_STEPS) if self.windows is None else self.windows.at(step)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Returns where the images of `indices` are."""
        return indices if self.place is None else self.place[indices]

    def of_images(self, images: Pixels, labels: jax.Array) -> "Feed":
        """Returns the feed of the images themselves, [n, h, w, 3] uint8, whose labels are `labels: [trials, n]`."""
        phase = dataclasses.replace(self.phase, from_features=False)
        return dataclasses.replace(self, phase=phase, images=images, labels=labels, place=None)


def _make_feed(
    program: Program,
    phase: Phase,
    frozen: Frozen,
    lanes: Sequence[Lane],
    first_step: int,
    images: Pixels,
    labels: jax.Array,
    executor: Executor,
    features: FeatureCache | None,
    fingerprint: str,
    say: Callable[[str], None],
) -> Feed:
    """Returns the images, or the outputs of the phase's frozen prefix where these cannot vary and fit in memory.

    `first_step` is how many steps the phases before had.
    """
    first, steps = (0, 1) if phase.whole else (first_step, phase.num_steps)
    views = max(phase.views, 1)
    where = first, steps, phase.batch_size, views, len(images)
    indices = np.stack(
        [
            balanced_indices(lane.train, lane.labels, lane.order_seed, *where)
            if lane.balanced
            else batch_indices(lane.train, lane.order_seed, *where)
            for lane in lanes
        ]
    )

    def refer(rows: np.ndarray) -> Reference | None:
        cache = features or FeatureCache(Execution().feature_cache_bytes)
        return executor.place_shared(_make_reference(phase, lanes, images, fingerprint, cache, indices, rows, say))

    def make_whole() -> Feed:
        windows = None
        if isinstance(images, Stream):
            if phase.whole:
                raise UserError(
                    "'training.linear_probe.optimizer' is 'lbfgs', whose every step is over all images, but they take "
                    f"{images.images.nbytes / 1e9:.1f} GB; raise 'execution.device_data_bytes', or use 'same'."
                )
            windows = Windows(images, indices % len(images), executor.place_shared)
        with_source = frozen._replace(reference=refer(np.arange(views * len(images))))
        return Feed(phase, with_source, images, labels, executor.place_batches(indices), windows=windows)

    if features is None or phase.prefix is None or not phase.keeps_prefix:
        return make_whole()

    def prefix_to(unit: str, through: Prefix | None) -> Prefix:
        variables = {"params": frozen.params, "batch_stats": frozen.batch_stats}
        return _prefix(phase, unit, variables, images, fingerprint, lanes[0], through)

    # A later phase begins lower down: what it will ask for is kept on the way.
    order = phase.model.units.index
    lower = min((p.prefix for p in program.phases if p.prefix), key=order)
    through = prefix_to(lower, None) if order(lower) < order(phase.prefix) else None
    prefix = prefix_to(phase.prefix, through)
    evaluated = [rows for lane in lanes for rows in (lane.val, lane.test, *[lane.train] * phase.recalibrates)]
    needed = np.unique(np.concatenate([indices.ravel(), *evaluated]))
    if not features.fits(prefix, needed):
        prefix = dataclasses.replace(prefix, through=None)
    if not features.fits(prefix, needed):
        return make_whole()
    place = np.full(views * len(images), -1, np.int32)
    place[needed] = np.arange(len(needed))
    outputs = executor.place_shared(features.outputs(prefix, needed, say))
    from_features = dataclasses.replace(phase, from_features=True)
    of_needed = executor.place(np.asarray(labels)[:, needed % len(images)])
    with_source = frozen._replace(reference=refer(needed))
    return Feed(from_features, with_source, outputs, of_needed, executor.place_batches(place[indices]), place)


def _prefix(
    phase: Phase,
    unit: str,
    variables: Mapping[str, Flat],
    images: Pixels,
    fingerprint: str,
    lane: Lane,
    through: Prefix | None = None,
) -> Prefix:
    """Returns the units up to `unit` before what a phase sees of the images where it does not vary, views included."""
    # Parts of larger images vary, but for the image itself, of which the centre is looked at.
    crop_px = phase.preprocessing.size_px if images.shape[1] != phase.preprocessing.size_px else None
    changes = phase.changes if phase.views else Changes(crop_px=crop_px)
    return Prefix(
        phase.model, phase.preprocessing, unit, variables, images, fingerprint, changes, lane.augment_key, through
    )


def _make_reference(
    phase: Phase,
    lanes: Sequence[Lane],
    images: Pixels,
    fingerprint: str,
    features: FeatureCache,
    indices: np.ndarray,
    rows: np.ndarray,
    say: Callable[[str], None],
) -> Reference | None:
    """Returns what a phase's regularisers need of the source; None where they need nothing.

    Its feature maps are kept where images do not vary and they fit in memory.

    Args:
      indices: those of all batches, view * n + row.
      rows: [rows] which of them each row of the phase's images is.
    """
    terms, model, source = phase.regularisers, phase.model, lanes[0].source
    if not terms.needs_source:
        return None
    if source is None:
        raise ValueError("regularisers towards the source need the source of each lane.")
    trained_on = np.unique(indices)
    head, n = model.units[-1], len(images)

    def positions(table: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.clip(np.searchsorted(table, of), 0, len(table) - 1).astype(np.int32)

    reference = Reference({name: source["params"][name] for name, _ in terms.pulled}, {})
    if terms.distillation:
        own_head = {name: leaf for name, leaf in source["params"].items() if unit_of(name, model.units) == head}
        recorded_of = np.unique(trained_on % n)
        whole = dataclasses.replace(phase, model=source_network(model, own_head), views=0)
        said = features.outputs(_prefix(whole, head, source, images, fingerprint, lanes[0]), recorded_of, say)
        reference.params.update(own_head)
        reference = reference._replace(logits=said, logit_rows=positions(recorded_of, rows % n))
    if terms.maps:
        prefixes: list[Prefix] = []
        for unit in terms.maps:
            through = prefixes[-1] if prefixes else None
            prefixes.append(_prefix(phase, unit, source, images, fingerprint, lanes[0], through))
        num_bytes = 4 * len(trained_on) * sum(math.prod(prefix.output_shape) for prefix in prefixes)
        if (phase.views or not phase.changes_images) and num_bytes <= features.max_bytes:
            maps = {prefix.unit: features.outputs(prefix, trained_on, say) for prefix in prefixes}
            return reference._replace(maps=maps, map_rows=positions(trained_on, rows))
        first = model.units.index(phase.prefix) + 1 if phase.prefix else 0
        run = model.units[first : model.units.index(terms.maps[-1]) + 1]
        for ours, theirs in zip((reference.params, reference.batch_stats), (source["params"], source["batch_stats"])):
            ours.update({name: leaf for name, leaf in theirs.items() if unit_of(name, model.units) in run})
    return reference


def _shared(frozen: Sequence[Frozen]) -> Frozen:
    """Returns what is frozen, which must be the same in all lanes."""
    for other in frozen[1:]:
        same = jax.tree.map(lambda a, b: a is b or np.array_equal(a, b), frozen[0], other)
        if not all(jax.tree.leaves(same)):
            raise ValueError("trials that run side by side must share what is frozen.")
    return frozen[0]


@functools.cache
def _make_init_states(phase: Phase) -> Callable[[Flat, Flat, HParams, jax.Array], State]:
    return jax.jit(jax.vmap(functools.partial(init_state, phase)))


def _next_carry(carry: Carry | None, state: State, program: Program, phase: Phase, width: int) -> Carry:
    """Returns the carry at the start of a phase.

    The curves go on. So do state and selection in a phase that goes on from the one before, whose best is one of this
    phase too: what joins had rested until then. Any other phase selects anew.
    """
    most_steps = max(end - begin for ends in program.epoch_ends for begin, end in zip((0, *ends), ends))
    copied = jax.tree.map(jnp.copy, state.evaluated)  # the state's own are given up to the steps
    first = Carry(
        state=state,
        best=copied,
        best_score=np.full((width, 2), -np.inf),
        best_epoch=np.full(width, -1),
        history=carry.history if carry else np.full((width, program.num_epochs, len(CURVES)), np.nan),
        epochs_done=carry.epochs_done if carry else np.zeros((), int),
        metrics=np.zeros((width, most_steps, 2), np.float32),
        diverged=carry.diverged if carry else np.zeros(width, bool),
        seconds=carry.seconds if carry else np.zeros(()),
    )
    if carry is None or not phase.first_step:
        return first
    rested = jax.tree.map(jnp.copy, (state.params, state.batch_stats))
    return dataclasses.replace(
        first,
        state=continue_state(carry.state, state),
        best=(rested[0] | carry.best[0], rested[1] | carry.best[1]),
        best_score=carry.best_score,
        best_epoch=carry.best_epoch,
    )


def _end_epoch(
    program: Program,
    feed: Feed,
    executor: Executor,
    carry: Carry,
    epoch: int,
    num_steps: int,
    lanes: Sequence[Lane],
) -> None:
    """Evaluates on the validation images, notes the curves and who diverged, and keeps the best.

    A trial has diverged once its loss, a parameter or a statistic is no finite number; its curves end there.
    """
    state = carry.state
    scores = evaluate(program, feed, executor, *state.evaluated, lanes, "val")
    loss, accuracy = scores.loss, scores.accuracy
    last = 1 if feed.phase.whole else num_steps  # a step over all images is no mean's part
    trained = carry.metrics[:, num_steps - last : num_steps].astype(np.float64).mean(axis=1)
    carry.history[:, epoch] = np.stack([trained[:, 0], trained[:, 1], loss, accuracy, scores.mean_per_class], axis=1)
    has_val = np.array([len(lane.val) > 0 for lane in lanes])
    carry.diverged = carry.diverged | ~scores.finite | ~np.isfinite(trained[:, 0]) | (has_val & ~np.isfinite(loss))
    carry.history[carry.diverged, epoch] = np.nan
    # The most accurate epoch, of equals the one with the least loss; without validation images, the last.
    ties = (accuracy == carry.best_score[:, 0]) & (-loss > carry.best_score[:, 1])
    better = (accuracy > carry.best_score[:, 0]) | ties | ~has_val | (program.select == "last")
    better &= ~carry.diverged
    carry.best = _where(executor.place(better), state.evaluated, carry.best)
    carry.best_score = np.where(better[:, None], np.stack([accuracy, -loss], axis=1), carry.best_score)
    carry.best_epoch = np.where(better, epoch, carry.best_epoch)
    carry.epochs_done = np.asarray(epoch + 1)


@functools.partial(jax.jit, donate_argnums=2)
def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def _outcomes(
    program: Program,
    feed: Feed,
    executor: Executor,
    carry: Carry,
    lanes: Sequence[Lane],
    params: list[Flat],
    stats: list[Flat],
    saver: _Saver,
) -> list[Outcome]:
    """Reads the test images, once, with the selected weights."""
    best_params, best_stats = carry.best
    best_score, of_val = carry.best_score[:, 0], None
    if program.phases[-1].recalibrates:
        best_stats = recalibrate(feed, executor, best_params, best_stats, lanes)
        of_val = evaluate(program, feed, executor, best_params, best_stats, lanes, "val")
        best_score = of_val.accuracy
    tested = evaluate(program, feed, executor, best_params, best_stats, lanes, "test")
    best_params, best_stats = jax.device_get((best_params, best_stats))
    moving = {name for phase in program.phases for name in phase.tracked}
    seconds = saver.seconds(carry) / len(lanes)
    outcomes = []
    for i, lane in enumerate(lanes):
        diverged = bool(carry.diverged[i]) or not tested.finite[i]
        selected = int(carry.best_epoch[i])
        no_val, no_test = diverged or not len(lane.val), diverged or not len(lane.test)
        curves = {name: carry.history[i, :, j] for j, name in enumerate(CURVES)}
        final_stats = stats[i] | {name: leaf[i] for name, leaf in best_stats.items()}
        check_frozen(lane.batch_stats, final_stats, moving)
        per_class = curves["val_mean_per_class"][selected] if of_val is None else of_val.mean_per_class[i]
        outcomes.append(
            Outcome(
                params=_plain(params[i] | {name: leaf[i] for name, leaf in best_params.items()}, lane),
                batch_stats=final_stats,
                curves={"epoch": np.array(program.epochs), **curves},
                diverged=diverged,
                selected_epoch=None if diverged else program.epochs[selected],
                val_accuracy=None if no_val else float(best_score[i]),
                test_accuracy=None if no_test else float(tested.accuracy[i]),
                val_mean_per_class=None if no_val else float(per_class),
                test_mean_per_class=None if no_test else float(tested.mean_per_class[i]),
                test_predictions=tested.predictions[i],
                seconds=seconds,
            )
        )
    return outcomes


def _plain(params: Flat, lane: Lane) -> Flat:
    """Returns the parameters of a network, changes of kernels merged into them."""
    return merge(params, params, lane.hparams.lora_scale)


def recalibrate(feed: Feed, executor: Executor, params: Flat, batch_stats: Flat, lanes: Sequence[Lane]) -> Flat:
    """Returns tracked statistics replaced by those of all images that each trial trains on: [trials, features].

    The images are seen once, as in evaluation: without random changes, in batches that are as equal as can be, of at
    most 256. The mean and variance of what enters a batch norm are over all of them; what lies below is normalised by
    the statistics of its batch. So up to 256 images they are exact, above that those of Wu & Johnson 2021, section 3.2.
    """
    moments_step = _make_moments(feed.phase.evaluated, executor)
    params = _merged(params, feed, executor, lanes)
    count = len(lanes[0].train)
    batches = np.array_split(np.stack([feed.at(lane.train) for lane in lanes]), -(-count // MOMENTS_BATCH), axis=1)
    found = []
    for rows in batches:
        interrupts.check()
        images = executor.place_shared(at_hand(feed.images, rows))
        moments = moments_step(params, batch_stats, executor.place(rows[:, None]), feed.resting, images)
        found.append({name: np.asarray(value) for name, value in moments.items()})
    with np.errstate(invalid="ignore", over="ignore"):  # of a trial that diverged
        pooled = pool_moments(found, [rows.shape[1] for rows in batches])
    return executor.place({name: pooled[name] for name in batch_stats})


def check_frozen(before: Flat, after: Flat, moving: Collection[str]) -> None:
    """Checks that batch-norm statistics that are to rest have the bits that they began with.

    Raises a `RuntimeError` that names those that moved.
    """
    moved = [
        name
        for name, leaf in before.items()
        if name not in moving
        and after[name] is not leaf
        and np.asarray(after[name]).tobytes() != np.asarray(leaf).tobytes()
    ]
    if moved:
        raise RuntimeError(f"frozen batch-norm statistics moved: {', '.join(moved)}.")


# --- measured before the choice of an executor ------------------------------------------------------------------


def time_steps(program: Program, lane: Lane, images: np.ndarray, executor: Executor, seconds: float = 0.5) -> float:
    """Returns the median seconds of a step of the longest phase, of trials like `lane` as the executor runs them.

    Steps are timed for about as long as `seconds`, after the first, which compiles.
    """
    phase = max(program.phases, key=lambda phase: phase.num_steps)
    run = example_steps(phase, lane, images, executor)
    taken: list[float] = []
    while len(taken) < 2 or (sum(taken[1:]) < seconds and len(taken) < phase.num_steps):
        interrupts.check()
        start = time.perf_counter()
        run(1)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[1:]))


def example_steps(phase: Phase, lane: Lane, images: np.ndarray, executor: Executor) -> Callable[[int], None]:
    """Returns a function that runs so many steps of trials like `lane`, and waits for their end."""
    phase, live, tracked, frozen, images = _example(phase, lane, images)
    width = executor.width
    live, tracked, hparams, keys, labels = executor.place(
        stack([(live, tracked, lane.hparams, lane.augment_key, lane.labels)] * width)
    )
    state = executor.place(_make_init_states(phase)(live, tracked, hparams, keys))
    steps = 1 if phase.whole else phase.num_steps
    indices = executor.place_batches(np.zeros((width, steps, phase.batch_size), np.int32))
    shared = executor.place_shared((frozen, images))
    run_steps = make_run_steps(phase, executor)

    def run(count: int) -> None:
        nonlocal state
        state, metrics = run_steps(count, state, hparams, labels, indices, *shared)
        jax.block_until_ready((state.step, metrics))

    return run


def time_evaluation(program: Program, lane: Lane, images: np.ndarray) -> float:
    """Returns the seconds that it takes to evaluate an image of a trial like `lane`; zero where there are none.

    A batch is timed, after one that compiles.
    """
    part: Literal["val", "test"] = "val" if len(lane.val) else "test"
    rows = getattr(lane, part)[: eval_batch(program, [lane], 1)] if len(lane.val) or len(lane.test) else lane.test
    if not len(rows):
        return 0.0
    executor = Executor()
    lane = dataclasses.replace(lane, val=rows) if part == "val" else dataclasses.replace(lane, test=rows)
    phase, live, tracked, frozen, images = _example(program.phases[-1], lane, images)
    labels, no_batches = executor.place((lane.labels[None], np.zeros((1, 1, 1), np.int32)))
    frozen, pixels = executor.place_shared((frozen, images))
    feed = Feed(phase, frozen, pixels, labels, no_batches)
    params, batch_stats = executor.place((stack([live]), stack([tracked])))
    taken = []
    for _ in range(3):
        interrupts.check()
        start = time.perf_counter()
        evaluate(dataclasses.replace(program, test_crops="centre"), feed, executor, params, batch_stats, [lane], part)
        taken.append(time.perf_counter() - start)
    return min(taken[1:]) / len(rows)


def needed_bytes(program: Program, lane: Lane, images: np.ndarray, executor: Executor) -> float:
    """Returns the memory of a device that trials like `lane` take as the executor runs them, in the program of most.

    It is read from the compiled programs: their arguments (the images and all that is frozen too), results and
    temporary memory. The best weights so far, which are in memory beside, are added. It is infinite where a program
    cannot even be compiled for want of memory.
    """
    if executor.name == "pmap":  # where a device runs what it would run under vmap alone
        executor = Executor("vmap", executor.width // executor.num_devices)
    trained = {name for phase in program.phases for name in phase.trainable}
    tracked = {name for phase in program.phases for name in phase.tracked}
    of_one = _bytes(([lane.params[name] for name in trained], [lane.batch_stats[name] for name in tracked]))
    best = of_one * executor.width / executor.num_devices
    return best + max(
        _program_bytes(function, args) for _, function, args in compiled_programs(program, lane, images, executor)
    )


def _program_bytes(function: Any, args: Sequence[Any]) -> float:
    """Returns the memory of a device that a program takes, its arguments and results too."""
    try:
        memory = function.lower(*args).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            return math.inf
        raise
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return own + memory.temp_size_in_bytes


def compiled_programs(
    program: Program, lane: Lane, images: np.ndarray, executor: Executor
) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yields the programs that trials like `lane` run: a name, the function, and the shapes of its arguments.

    The shapes say where arrays lie, so that a program that is compiled for them is the one that will be run.
    """
    of_trials, of_all, of_batches = executor.of_trials, executor.of_all, executor.of_batches
    width = executor.width
    for planned in program.phases:
        phase, *variables, frozen, images_of_phase = _example(planned, lane, images)
        own = (*variables, lane.hparams, lane.augment_key, lane.labels)
        live, tracked, hparams, key, labels = _shapes(own, of_trials, width)
        frozen, seen = _shapes((frozen, images_of_phase), of_all)
        init_states = _make_init_states(phase)
        yield "init", init_states, (live, tracked, hparams, key)
        state = _shapes(jax.eval_shape(init_states, live, tracked, hparams, key), of_trials)
        num_rows = 1 if phase.whole else phase.num_steps
        indices = _shapes(np.zeros((num_rows, phase.batch_size), np.int32), of_batches, width)
        count = (jnp.int32(1),) if loops_on_device(phase) else ()
        yield "train", make_steps(phase, executor), (state, hparams, labels, indices, *count, frozen, seen)
        params, resting = live, frozen._replace(reference=None)
        if any(map(is_adapter, live)):
            yield "merge", _make_merge(executor), (live, hparams.lora_scale, frozen.params)
            merged = jax.eval_shape(_make_merge(executor), live, hparams.lora_scale, frozen.params)
            params = _shapes(merged, of_trials)
        yield "finite", _make_finite(executor), (params, tracked)
        if phase.recalibrates:
            rows = _shapes(np.zeros((1, min(len(lane.train), MOMENTS_BATCH)), np.int32), of_trials, width)
            yield "moments", _make_moments(phase.evaluated, executor), (params, tracked, rows, resting, seen)
        if len(lane.val) or len(lane.test):
            size = eval_batch(program, [lane], executor.num_devices)
            batch = _shapes((np.zeros((1, size), np.int32), np.zeros((1, size), bool)), of_batches, width)
            yield "evaluate", _make_eval(phase.evaluated, executor), (params, tracked, labels, *batch, resting, seen)


def _shapes(tree: Any, sharding: jax.sharding.Sharding, width: int | None = None) -> Any:
    """Returns the shapes of arrays that lie as `sharding` says, those of `width` trials where it is given."""
    lanes = () if width is None else (width,)

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*lanes, *leaf.shape), leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, jax.eval_shape(lambda: tree))


def _example(phase: Phase, lane: Lane, images: np.ndarray) -> tuple[Phase, Flat, Flat, Frozen, np.ndarray]:
    """Returns (phase, trainable, tracked, frozen, images) as the phase will have them; kept features are zeros."""
    live, tracked, frozen = split_variables(phase, lane.params, lane.batch_stats)
    if phase.keeps_prefix and phase.prefix is not None:
        shape = output_shape(phase.model, phase.prefix, phase.preprocessing.size_px)
        images, phase = np.zeros((len(images), *shape), np.float32), dataclasses.replace(phase, from_features=True)
    return phase, live, tracked, frozen._replace(reference=_example_reference(phase, lane)), images


def _example_reference(phase: Phase, lane: Lane) -> Reference | None:
    """Returns what the regularisers of a phase will have of the source, of an image; kept maps are zeros."""
    terms, row = phase.regularisers, np.zeros(1, np.int32)
    if not terms.needs_source:
        return None
    reference = Reference(dict(lane.params), dict(lane.batch_stats))
    if terms.distillation:
        said = np.zeros((1, source_network(phase.model, lane.params).num_classes), np.float32)
        reference = reference._replace(logits=said, logit_rows=row)
    if terms.maps and (phase.views or not phase.changes_images):
        shapes = {unit: output_shape(phase.model, unit, phase.preprocessing.size_px) for unit in terms.maps}
        maps = {unit: np.zeros((1, *shape), np.float32) for unit, shape in shapes.items()}
        reference = reference._replace(maps=maps, map_rows=row)
    return reference


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


# --- compiled once for each phase and executor -------------------------------------------------------------------


@functools.cache
def make_run_steps(phase: Phase, executor: Executor) -> Callable[..., tuple[State, list[jax.Array]]]:
    """Returns `run_steps(count, state, hparams, labels, indices, frozen, images) -> (state, metrics)`.

    The state is given up. The metrics are arrays [trials, steps, 2], of `count` steps or more one after another: the
    loss and accuracy of each. Nothing is waited for.
    """
    run = make_steps(phase, executor)

    def run_one_by_one(count: int, state: State, *rest: Any) -> tuple[State, list[jax.Array]]:
        found = []
        for _ in range(count):
            state, metrics = run(state, *rest)
            found.append(metrics)
        return state, found

    def run_stretch(count: int, state: State, hparams: HParams, *rest: Any) -> tuple[State, list[jax.Array]]:
        labels, indices, frozen, images = rest
        state, metrics = run(state, hparams, labels, indices, jnp.int32(count), frozen, images)
        return state, [metrics]

    return run_stretch if loops_on_device(phase) else run_one_by_one


def loops_on_device(phase: Phase) -> bool:
    """Tells whether a stretch of steps is one program.

    XLA runs convolutions inside loops many times slower on a CPU, so there it is a program a step.
    """
    return jax.default_backend() != "cpu" or phase.head_only


@functools.cache
def make_steps(phase: Phase, executor: Executor) -> Callable[..., tuple[State, jax.Array]]:
    """Returns the compiled program of a phase, over a leading axis of trials; its first argument is given up.

    `step(state, hparams, labels, indices, frozen, images) -> (state, [trials, 1, 2])`, or where a stretch is one
    program `stretch(state, hparams, labels, indices, count, frozen, images) -> (state, [trials, MOST_STEPS, 2])`.
    """
    train_step = make_train_step(phase)

    def step(state: State, *rest: Any) -> tuple[State, jax.Array]:
        state, metrics = train_step(state, *rest)
        return state, jnp.stack(metrics)[None]

    def stretch(
        state: State, hparams: HParams, labels: Any, indices: Any, count: Any, frozen: Frozen, images: Any
    ) -> tuple[State, jax.Array]:
        def body(i: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            state, metrics = train_step(carry[0], hparams, labels, indices, frozen, images)
            return state, carry[1].at[i].set(jnp.stack(metrics))

        return jax.lax.fori_loop(0, count, body, (state, jnp.zeros((MOST_STEPS, 2), jnp.float32)))

    if loops_on_device(phase):
        return executor.compile(stretch, num_shared=3, donate=(0,))
    return executor.compile(step, num_shared=2, donate=(0,))


@functools.cache
def _make_moments(network: Evaluated, executor: Executor) -> Callable[..., Flat]:
    return executor.compile(make_moments_step(network), num_shared=2)


@functools.cache
def _make_eval(network: Evaluated, executor: Executor) -> Callable[..., Evaluation]:
    return executor.compile(make_eval_step(network), num_shared=2)


@functools.cache
def _make_finite(executor: Executor) -> Callable[..., jax.Array]:
    return executor.compile(is_finite, num_shared=0)


@functools.cache
def _make_merge(executor: Executor) -> Callable[..., Flat]:
    def merged(params: Flat, scale: jax.Array, frozen: Flat) -> Flat:
        return merge(params, frozen, scale)

    return executor.compile(merged, num_shared=1)


def _merged(params: Flat, feed: Feed, executor: Executor, lanes: Sequence[Lane]) -> Flat:
    """Returns the trials' parameters, changes of kernels merged into them."""
    if not any(map(is_adapter, params)):
        return params
    scale = executor.place(stack([lane.hparams.lora_scale for lane in lanes]))
    return _make_merge(executor)(params, scale, feed.frozen.params)


class Scores(NamedTuple):
    """Mean loss, accuracy and mean per-class accuracy [trials], nan for no images; the predictions of each trial.

    `finite: [trials]` says whether all parameters and statistics of a trial's network are finite numbers.
    """

    loss: np.ndarray
    accuracy: np.ndarray
    mean_per_class: np.ndarray
    predictions: list[np.ndarray]
    finite: np.ndarray


def evaluate(
    program: Program,
    feed: Feed,
    executor: Executor,
    params: Flat,
    batch_stats: Flat,
    lanes: Sequence[Lane],
    part: Literal["val", "test"],
) -> Scores:
    """Returns what the trials' networks say of their own images to select or to test on."""
    rows = [getattr(lane, part) for lane in lanes]
    most = max(len(r) for r in rows)
    size = eval_batch(program, lanes, executor.num_devices)
    network = feed.phase.evaluated
    params = _merged(params, feed, executor, lanes)
    finite = _make_finite(executor)(params, batch_stats)
    if part == "test" and program.test_crops == "ten":
        network = dataclasses.replace(network, crops="ten")
        size = max(size // executor.num_devices // NUM_CROPS, 1) * executor.num_devices
    padded = [padded_batches(np.resize(feed.at(r), most) if len(r) else np.zeros(most, np.int32), size) for r in rows]
    counts = np.array([len(r) for r in rows])
    eval_step = _make_eval(network, executor)
    loss, correct, predictions = np.zeros(len(rows)), np.zeros(len(rows)), []
    every_batch = np.stack([p[0] for p in padded])
    images, windows = feed.images, None
    if isinstance(images, Stream):
        windows = Windows(images, every_batch, executor.place_shared)

    def dispatch(i: int) -> Evaluation:
        interrupts.check()
        batch = every_batch[:, i : i + 1]
        within = np.arange(i * size, (i + 1) * size).reshape(1, 1, -1) < counts.reshape(-1, 1, 1)
        seen = images if windows is None else windows.at(i)[0]
        placed = executor.place_batches((batch, within))
        return eval_step(params, batch_stats, feed.labels, *placed, feed.resting, seen)

    for result in one_behind(map(dispatch, range(-(-most // size) if most else 0))):
        loss += np.asarray(result.loss, np.float64)
        correct += np.asarray(result.correct, np.float64)
        predictions.append(np.asarray(result.predictions))
    every = np.concatenate(predictions, axis=1) if predictions else np.zeros((len(rows), 0), np.int32)
    said = [every[i, :n].astype(np.int32) for i, n in enumerate(counts)]
    per_class = [mean_per_class(lane.labels[r], p) for lane, r, p in zip(lanes, rows, said)]
    with np.errstate(invalid="ignore"):
        return Scores(loss / counts, correct / counts, np.array(per_class), said, np.asarray(finite))


def one_behind(dispatched: Iterable[T]) -> Iterator[T]:
    """Yields each result after the next one is dispatched, so that the device need not wait for who reads them."""
    before: list[T] = []
    for result in dispatched:
        yield from before
        before = [result]
    yield from before


def eval_batch(program: Program, lanes: Sequence[Lane], num_devices: int) -> int:
    """Returns how many images are evaluated at a time: of validation and test alike, so that one program serves both.

    It is the program's number, or the power of two that holds all images of the smaller of the two.
    """
    limit = program.eval_batch_size or (LEAST_EVAL_BATCH if jax.default_backend() == "cpu" else USUAL_EVAL_BATCH)
    sizes = [most for part in ("val", "test") if (most := max(len(getattr(lane, part)) for lane in lanes))]
    holds = 1 << (min(sizes, default=1) - 1).bit_length()
    return max(min(limit, max(holds, LEAST_EVAL_BATCH)) // num_devices, 1) * num_devices


def stack(trees: Sequence[Any]) -> Any:
    """Returns trees of one structure as one on the host, whose leaves have a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _line(carry: Carry, epoch: int, num_epochs: int) -> str:
    loss, _, _, accuracy, _ = carry.history[~carry.diverged, epoch].mean(axis=0)
    val = "" if np.isnan(accuracy) else f", validation accuracy {accuracy:.1%}"
    return f"epoch {epoch + 1}/{num_epochs}, loss {loss:.3f}{val}"
