"""The host's loop: trials run side by side as one compiled program, in turn or under `vmap`.

Every array of a trial has a leading trial axis, whatever the executor; frozen leaves and images have none and are
shared. In turn is the width 1, where the axis is taken off inside the program.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config import Execution
from jaxft.data.augment import Changes
from jaxft.data.batches import batch_indices, epoch_ends, padded_batches
from jaxft.features import FeatureCache, Prefix
from jaxft.optim import HParams
from jaxft.train import (
    Evaluation,
    Flat,
    Frozen,
    Metrics,
    Phase,
    State,
    init_state,
    make_eval_step,
    make_train_step,
    split_variables,
)

CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Program:
    """What is static in a whole trial: its phases, after which steps of each it is evaluated, what is selected."""

    phases: tuple[Phase, ...]
    epoch_ends: tuple[tuple[int, ...], ...]
    select: str
    eval_batch_size: int
    num_train: int

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


def make_program(phases: Sequence[Phase], select: str, eval_batch_size: int, num_train: int) -> Program:
    """Returns the program of phases that are evaluated after each pass, or at the end where every step is over all."""
    ends = [[p.num_steps] if p.whole else epoch_ends(num_train, p.num_steps, p.batch_size) for p in phases]
    return Program(tuple(phases), tuple(map(tuple, ends)), select, eval_batch_size, num_train)


@dataclass(frozen=True)
class Lane:
    """The arrays of one trial.

    `params` and `batch_stats` are flat and whole, as the trial begins; leaves that a phase freezes are the same in
    all lanes that run side by side. `rows` are the images to train, select and test on.
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
    test_predictions: np.ndarray
    seconds: float


class Checkpoints(Protocol):
    """Where the state of unfinished work is kept."""

    def latest(self) -> int | None:
        """Returns the epoch last saved."""

    def load(self, epoch: int, like: Any) -> Any:
        """Returns what was saved at `epoch`."""

    def save(self, epoch: int, tree: Any) -> None:
        """Keeps `tree`."""


@dataclass
class Carry:
    """Everything that a chunk of trials needs to go on from the end of an epoch."""

    state: State
    best: Any  # (params, batch_stats) of the best epoch so far
    best_score: np.ndarray  # [trials, 2] validation accuracy and minus loss
    best_epoch: np.ndarray  # [trials], -1 where there is none
    history: np.ndarray  # [trials, epochs, curves]
    diverged: np.ndarray  # [trials]
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def tree(self) -> dict[str, Any]:
        """Returns the carry as a tree of arrays."""
        return dict(self.__dict__)


def choose_executor(execution: Execution) -> tuple[str, int]:
    """Returns the executor and how many trials run side by side.

    'auto' is in turn on a CPU, where XLA runs a convolution with batched kernels several times slower than the
    same convolutions one after another, and `vmap` elsewhere.
    """
    name = execution.executor
    if name == "auto":
        name = "in_turn" if jax.default_backend() == "cpu" else "vmap"
    return name, 1 if name == "in_turn" else execution.width


def run_chunk(
    program: Program,
    lanes: Sequence[Lane],
    images: jax.Array,
    on_epoch: Callable[[str], None] = lambda text: None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 300.0,
    features: FeatureCache | None = None,
    fingerprint: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Returns the outcome of trials that run side by side, one a lane.

    Args:
      program: what all lanes share.
      lanes: what they do not.
      images: [n, h, w, 3] uint8, on the device.
      on_epoch: called after each epoch with a line about it.
      checkpoints: where to save the state every `checkpoint_seconds`, and to go on from.
      features: where the outputs of frozen prefixes are kept; none: they are computed anew at every step.
      fingerprint: what identifies the images, for the features.
      say: told how far the features are.
    """
    started = time.monotonic()
    labels = jnp.stack([jnp.asarray(lane.labels) for lane in lanes])
    hparams = stack([lane.hparams for lane in lanes])
    params = [dict(lane.params) for lane in lanes]
    stats = [dict(lane.batch_stats) for lane in lanes]
    resume_at = checkpoints.latest() if checkpoints else None
    carry: Carry | None = None
    epoch, first_step, last_saved = 0, 0, time.monotonic()
    feed: Feed | None = None

    for number, (phase, ends) in enumerate(zip(program.phases, program.epoch_ends)):
        if resume_at is not None and resume_at > epoch + len(ends):
            epoch += len(ends)  # this phase had ended before the checkpoint
            first_step += phase.num_steps
            continue
        splits = [split_variables(phase, p, s) for p, s in zip(params, stats)]
        frozen = _shared([split[2] for split in splits])
        drawn = [lane.augment_key if phase.views else jax.random.fold_in(lane.augment_key, number) for lane in lanes]
        keys = jnp.stack(drawn)
        live, tracked = stack([s[0] for s in splits]), stack([s[1] for s in splits])
        state = _make_init_states(phase)(live, tracked, hparams, keys)
        carry = _next_carry(carry, state, program, len(lanes))
        done = 0
        if resume_at is not None and checkpoints is not None:
            carry = Carry(**checkpoints.load(resume_at, carry.tree()))
            done, resume_at = resume_at - epoch, None
        indices = np.stack(
            [
                batch_indices(
                    lane.train,
                    lane.order_seed,
                    0 if phase.whole else first_step,
                    1 if phase.whole else phase.num_steps,
                    phase.batch_size,
                    max(phase.views, 1),
                    len(images),
                )
                for lane in lanes
            ]
        )
        feed = _make_feed(program, phase, frozen, lanes, indices, images, labels, features, fingerprint, say)
        on_device = jnp.asarray(feed.at(indices))
        run_steps = make_run_steps(feed.phase, len(lanes))
        for i in range(done, len(ends)):
            begin = ends[i - 1] if i else 0
            carry.state, metrics = run_steps(
                ends[i] - begin, carry.state, hparams, feed.labels, on_device, frozen, feed.images
            )
            _end_epoch(program, feed, carry, epoch + i, metrics, lanes)
            if carry.diverged.all() and phase is program.phases[-1]:
                break
            on_epoch("" if carry.diverged.all() else _line(carry, epoch + i, program.num_epochs))
            if checkpoints is not None and time.monotonic() - last_saved >= checkpoint_seconds:
                carry.seconds = np.asarray(carry.seconds + time.monotonic() - started)
                started = last_saved = time.monotonic()
                checkpoints.save(epoch + i + 1, carry.tree())
        epoch, first_step = epoch + len(ends), first_step + phase.num_steps
        for i in range(len(lanes)):
            params[i] |= {name: leaf[i] for name, leaf in carry.state.params.items()}
            stats[i] |= {name: leaf[i] for name, leaf in carry.state.batch_stats.items()}

    if carry is None or feed is None:
        raise ValueError("a program has one phase at least.")
    return _outcomes(program, feed, carry, lanes, params, stats, started)


@dataclass(frozen=True, eq=False)
class Feed:
    """What a phase reads: images, or what its frozen prefix says of them, and their labels [trials, images].

    `place` tells where among them the image of an index is; none: there.
    """

    phase: Phase
    frozen: Frozen
    images: jax.Array
    labels: jax.Array
    place: np.ndarray | None = None

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Returns where the images of `indices` are."""
        return indices if self.place is None else self.place[indices]


def _make_feed(
    program: Program,
    phase: Phase,
    frozen: Frozen,
    lanes: Sequence[Lane],
    indices: np.ndarray,
    images: jax.Array,
    labels: jax.Array,
    features: FeatureCache | None,
    fingerprint: str,
    say: Callable[[str], None],
) -> Feed:
    """Returns the images, or the outputs of the phase's frozen prefix where these cannot vary and fit in memory."""
    whole = Feed(phase, frozen, images, labels)
    if features is None or phase.prefix is None or not (phase.views or phase.changes.is_none):
        return whole

    def prefix_to(unit: str, through: Prefix | None) -> Prefix:
        return Prefix(
            phase.model,
            phase.preprocessing,
            unit,
            {"params": frozen.params, "batch_stats": frozen.batch_stats},
            images,
            fingerprint,
            phase.changes if phase.views else Changes(),
            lanes[0].augment_key,
            through,
        )

    # A later phase begins lower down: what it will ask for is kept on the way.
    order = phase.model.units.index
    lower = min((p.prefix for p in program.phases if p.prefix), key=order)
    through = prefix_to(lower, None) if order(lower) < order(phase.prefix) else None
    prefix = prefix_to(phase.prefix, through)
    needed = np.unique(np.concatenate([indices.ravel(), *(rows for lane in lanes for rows in (lane.val, lane.test))]))
    if not features.fits(prefix, needed):
        prefix = dataclasses.replace(prefix, through=None)
    if not features.fits(prefix, needed):
        return whole
    place = np.full(max(phase.views, 1) * len(images), -1, np.int32)
    place[needed] = np.arange(len(needed))
    outputs = jax.device_put(features.outputs(prefix, needed, say))
    from_features = dataclasses.replace(phase, from_features=True)
    return Feed(from_features, frozen, outputs, labels[:, needed % len(images)], place)


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


def _next_carry(carry: Carry | None, state: State, program: Program, width: int) -> Carry:
    """Returns the carry at the start of a phase; a new phase selects anew, the curves go on."""
    return Carry(
        state=state,
        best=(state.params, state.batch_stats),
        best_score=np.full((width, 2), -np.inf),
        best_epoch=np.full(width, -1),
        history=carry.history if carry else np.full((width, program.num_epochs, len(CURVES)), np.nan),
        diverged=carry.diverged if carry else np.zeros(width, bool),
        seconds=carry.seconds if carry else np.zeros(()),
    )


def _end_epoch(program: Program, feed: Feed, carry: Carry, epoch: int, metrics: Metrics, lanes: Sequence[Lane]) -> None:
    """Evaluates on the validation images, notes the curves and who diverged, and keeps the best."""
    state = carry.state
    rows = [lane.val for lane in lanes]
    loss, accuracy, _ = evaluate(feed, program.eval_batch_size, state.params, state.batch_stats, rows)
    steps = slice(-1, None) if feed.phase.whole else slice(None)  # one over all images is no mean's part
    train_loss = np.asarray(metrics.loss, np.float64)[:, steps].mean(axis=1)
    train_accuracy = np.asarray(metrics.accuracy, np.float64)[:, steps].mean(axis=1)
    carry.history[:, epoch] = np.stack([train_loss, train_accuracy, loss, accuracy], axis=1)
    has_val = np.array([len(lane.val) > 0 for lane in lanes])
    carry.diverged = carry.diverged | ~np.isfinite(train_loss) | (has_val & ~np.isfinite(loss))
    # The most accurate epoch, of equals the one with the least loss; without validation images, the last.
    ties = (accuracy == carry.best_score[:, 0]) & (-loss > carry.best_score[:, 1])
    better = (accuracy > carry.best_score[:, 0]) | ties | ~has_val | (program.select == "last")
    better &= ~carry.diverged
    carry.best = _where(jnp.asarray(better), (state.params, state.batch_stats), carry.best)
    carry.best_score = np.where(better[:, None], np.stack([accuracy, -loss], axis=1), carry.best_score)
    carry.best_epoch = np.where(better, epoch, carry.best_epoch)


@jax.jit
def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def _outcomes(
    program: Program,
    feed: Feed,
    carry: Carry,
    lanes: Sequence[Lane],
    params: list[Flat],
    stats: list[Flat],
    started: float,
) -> list[Outcome]:
    """Reads the test images, once, with the selected weights."""
    best_params, best_stats = carry.best
    rows = [lane.test for lane in lanes]
    _, test_accuracy, predictions = evaluate(feed, program.eval_batch_size, best_params, best_stats, rows)
    seconds = float(carry.seconds + time.monotonic() - started) / len(lanes)
    outcomes = []
    for i, lane in enumerate(lanes):
        diverged = bool(carry.diverged[i])
        selected = int(carry.best_epoch[i])
        curves = {name: carry.history[i, :, j] for j, name in enumerate(CURVES)}
        outcomes.append(
            Outcome(
                params=params[i] | {name: leaf[i] for name, leaf in best_params.items()},
                batch_stats=stats[i] | {name: leaf[i] for name, leaf in best_stats.items()},
                curves={"epoch": np.array(program.epochs), **curves},
                diverged=diverged,
                selected_epoch=None if diverged else program.epochs[selected],
                val_accuracy=None if diverged or not len(lane.val) else float(carry.best_score[i, 0]),
                test_accuracy=None if diverged or not len(lane.test) else float(test_accuracy[i]),
                test_predictions=predictions[i],
                seconds=seconds,
            )
        )
    return outcomes


# --- compiled once for each phase and width ---------------------------------------------------------------------


def over_trials(function: Callable[..., Any], width: int, num_shared: int) -> Callable[..., Any]:
    """Returns `function` over a leading trial axis of `width`, on all arguments but the last `num_shared`."""
    if width > 1:

        def batched(*args: Any) -> Any:
            axes = (0,) * (len(args) - num_shared) + (None,) * num_shared
            return jax.vmap(function, in_axes=axes)(*args)

        return batched

    def alone(*args: Any) -> Any:
        own, shared = args[: len(args) - num_shared], args[len(args) - num_shared :]
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], own), *shared))

    return alone


@functools.cache
def make_run_steps(phase: Phase, width: int) -> Callable[..., tuple[State, Metrics]]:
    """Returns `run_steps(count, state, hparams, labels, indices, frozen, images) -> (state, metrics [trials, count])`.

    A stretch of steps is one `scan` on the device; on a CPU, where XLA runs convolutions inside loops many times
    slower, it is one call a step.
    """
    train_step = make_train_step(phase)
    if jax.default_backend() == "cpu":
        step = jax.jit(over_trials(train_step, width, num_shared=2))

        def run_in_turn(count: int, state: State, *rest: Any) -> tuple[State, Metrics]:
            metrics = []
            for _ in range(count):
                state, one = step(state, *rest)
                metrics.append(one)
            return state, jax.tree.map(lambda *column: np.stack([np.asarray(m) for m in column], axis=1), *metrics)

        return run_in_turn

    @functools.partial(jax.jit, static_argnums=0)
    def run_scanned(count: int, state: State, *rest: Any) -> tuple[State, Metrics]:
        def scanned(state: State, *rest: Any) -> tuple[State, Metrics]:
            return jax.lax.scan(lambda s, _: train_step(s, *rest), state, length=count)

        return over_trials(scanned, width, num_shared=2)(state, *rest)

    return run_scanned


@functools.cache
def _make_eval(phase: Phase, width: int) -> Callable[..., Evaluation]:
    return jax.jit(over_trials(make_eval_step(phase), width, num_shared=2))


def evaluate(
    feed: Feed, batch_size: int, params: Flat, batch_stats: Flat, rows: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Returns (mean loss [trials], accuracy [trials], predicted classes of each trial's rows); nan for no rows.

    Batches are as large as `batch_size`, or the next power of two for fewer images, so that few programs serve sets
    of all sizes.
    """
    most = max(len(r) for r in rows)
    size = min(batch_size, 1 << max(most - 1, 0).bit_length())
    padded = [padded_batches(np.resize(feed.at(r), most) if len(r) else np.zeros(most, np.int32), size) for r in rows]
    counts = np.array([len(r) for r in rows])
    eval_step = _make_eval(feed.phase, len(rows))
    loss, correct, predictions = np.zeros(len(rows)), np.zeros(len(rows)), []
    for i in range(-(-most // size) if most else 0):
        batch = np.stack([p[0][i] for p in padded])
        within = np.arange(i * size, (i + 1) * size).reshape(1, -1) < counts.reshape(-1, 1)
        result = eval_step(
            params, batch_stats, feed.labels, jnp.asarray(batch), jnp.asarray(within), feed.frozen, feed.images
        )
        loss += np.asarray(result.loss, np.float64)
        correct += np.asarray(result.correct, np.float64)
        predictions.append(np.asarray(result.predictions))
    every = np.concatenate(predictions, axis=1) if predictions else np.zeros((len(rows), 0), np.int32)
    with np.errstate(invalid="ignore"):
        return loss / counts, correct / counts, [every[i, :n].astype(np.int32) for i, n in enumerate(counts)]


def stack(trees: Sequence[Any]) -> Any:
    """Returns trees of one structure as one, whose leaves have a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


def _line(carry: Carry, epoch: int, num_epochs: int) -> str:
    loss, _, _, accuracy = carry.history[~carry.diverged, epoch].mean(axis=0)
    val = "" if np.isnan(accuracy) else f", validation accuracy {accuracy:.1%}"
    return f"epoch {epoch + 1}/{num_epochs}, loss {loss:.3f}{val}"
