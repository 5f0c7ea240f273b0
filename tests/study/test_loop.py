"""The host loop: executors agree, a diverged trial does not affect others, a resumed chunk is bit-identical."""

import collections
import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft import UserError
from jaxft.config import Execution, Training
from jaxft.core import interrupts, paths
from jaxft.data.augmentation.augment import view
from jaxft.data.augmentation.evaluation import ten_crops
from jaxft.data.batches import StepRange, balanced_indices, batch_indices
from jaxft.features.cache import FeatureCache
from jaxft.models import Preprocessing, create_model
from jaxft.models.initialization import init_variables
from jaxft.study import device_memory
from jaxft.study.candidates import candidates, num_workers
from jaxft.study.chunk import loop
from jaxft.study.chunk.chunk_state import Position
from jaxft.study.chunk.compiled import MAX_LOOP_STEPS, make_run_steps, make_steps
from jaxft.study.chunk.evaluation import eval_batch, evaluate, one_behind
from jaxft.study.chunk.lanes import Chunk, Lane, curve_names
from jaxft.study.chunk.loop import run_chunk
from jaxft.study.chunk.memory import needed_bytes
from jaxft.study.chunk.phase_data import PhaseData
from jaxft.study.chunk.program import make_program
from jaxft.study.chunk.resuming import CheckpointPolicy, number_of, position_of
from jaxft.study.chunk.timing import time_steps
from jaxft.study.device_memory import drop_compiled_programs
from jaxft.study.executors import (
    EXECUTORS,
    DataParallel,
    Devices,
    Executor,
    Pmap,
    Sequential,
    Vmap,
    Workers,
    Workload,
    create_executor,
    over_trials,
    widest_fitting,
)
from jaxft.study.services import Services
from jaxft.training.adapters import init_adapters, is_adapter
from jaxft.training.evaluation import is_finite
from jaxft.training.hparams import make_hparams
from jaxft.training.layer_selection import tuning_rules, with_adapters
from jaxft.training.learning_rates import resolve_layers
from jaxft.training.phases import make_phases
from jaxft.training.state import split_variables
from jaxft.training.step import make_train_step

SIZE, CLASSES, NUM = 8, 3, 40
MODEL = create_model("toy", num_classes=CLASSES)
PLAIN = Preprocessing(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

# Executors add in different orders. After a few steps, parameters agree to this fraction of the largest value of a
# leaf.
TOLERANCE = 1e-4


def images():
    """Returns (images, labels) of three classes with different brightness, so a network can learn them."""
    rng = np.random.default_rng(1)
    labels = (np.arange(NUM) % CLASSES).astype(np.int32)
    pixels = rng.integers(0, 100, (NUM, SIZE, SIZE, 3)) + 70 * labels.reshape(-1, 1, 1, 1)
    return jnp.asarray(pixels, jnp.uint8), labels


def program_and_lanes(rates, **fields):
    """Returns a program, and the arrays of one trial for each learning rate, each with another seed."""
    fields = {
        "initialization.start": "random",
        "schedule.epochs": 2.0,
        "batches.size": 6,
        "optimizer.momentum": 0.5,
        **fields,
    }
    lanes, program = [], None
    for seed, rate in enumerate(rates):
        training = Training.of({"optimizer.learning_rate": rate, **fields})
        variables = init_variables(
            MODEL, jax.random.key(0 if "layers.backbone_learning_rate" in fields else seed), SIZE
        )
        params, stats = paths.flatten(variables["params"]), paths.flatten(variables["batch_stats"])
        layers = resolve_layers(training, MODEL, params)
        phases = make_phases(MODEL, PLAIN, training, layers, tuple(stats), 12)
        program = make_program(phases, training.selection.weights, eval_batch_size=16, num_train=12)
        rows = np.random.default_rng(seed).permutation(NUM).astype(np.int32)
        lanes.append(
            Lane(
                params,
                stats,
                make_hparams(training, layers),
                images()[1],
                np.sort(rows[:12]),
                np.sort(rows[12:20]),
                np.sort(rows[20:]),
                seed,
                jax.random.PRNGKey(seed),
            )
        )
    return program, lanes


def assert_close(one, other):
    for name in one:
        a, b = np.asarray(one[name]), np.asarray(other[name])
        assert np.abs(a - b).max() <= TOLERANCE * max(np.abs(a).max(), 1e-3), name


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"augmentation.flip.enabled": True, "augmentation.crop.padding_px": 1}, marks=pytest.mark.slow),
        {"layers.backbone_learning_rate": "frozen"},
    ],
    ids=["all", "frozen"],
)
def test_sequential_and_vmap_agree(fields):
    program, lanes = program_and_lanes([0.01, 0.03, 0.05], **fields)
    together = run_chunk(program, lanes, images()[0])
    for lane, outcome in zip(lanes, together):
        alone = run_chunk(program, [lane], images()[0])[0]
        assert_close(alone.params, outcome.params)
        assert_close(alone.batch_stats, outcome.batch_stats)
        np.testing.assert_allclose(alone.curves["train_loss"], outcome.curves["train_loss"], rtol=1e-3)
        assert outcome.metrics["val_accuracy"] == pytest.approx(alone.metrics["val_accuracy"], abs=1 / 8)


@pytest.mark.slow
def test_a_loop_of_steps_agrees_with_single_steps(monkeypatch):
    program, lanes = program_and_lanes([0.02])
    stepped = run_chunk(program, lanes, images()[0])[0]
    make_run_steps.cache_clear(), make_steps.cache_clear()
    # On a GPU or TPU, several steps are one loop. Another backend name selects this code here.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    scanned = run_chunk(program, lanes, images()[0])[0]
    make_run_steps.cache_clear(), make_steps.cache_clear()
    assert_close(stepped.params, scanned.params)


def test_a_trial_with_nan_parameters_has_diverged_and_its_curves_are_empty():
    program, (lane,) = program_and_lanes([0.01], **{"layers.backbone_learning_rate": 1e25})
    (outcome,) = run_chunk(program, [lane], images()[0])
    assert outcome.diverged and outcome.selected_epoch is None and set(outcome.metrics.values()) == {None}
    assert not any(np.isfinite(outcome.curves[name]).any() for name in curve_names())


@pytest.mark.parametrize("leaf", ["stem/bn/mean", "stage2/block1/bn2/var"])
def test_a_trial_with_infinite_statistics_has_diverged_although_its_loss_is_finite(leaf):
    """The training loss is finite, because batch norm uses the statistics of the batch; there are no images to test."""
    program, (lane,) = program_and_lanes([0.01])
    lane = dataclasses.replace(lane, batch_stats=lane.batch_stats | {leaf: lane.batch_stats[leaf].at[1].set(np.inf)})
    (outcome,) = run_chunk(program, [dataclasses.replace(lane, val=lane.val[:0], test=lane.test[:0])], images()[0])
    assert outcome.diverged and outcome.selected_epoch is None


@pytest.mark.slow
def test_a_trial_with_nan_parameters_and_finite_loss_has_diverged(tmp_path):
    """With the default compiler flags, a ReLU before a pooling turns NaN into zero, so the logits equal the bias."""
    study = {
        "seeds": 1,
        "target": {"data": "digits", "classes": ["0", "1", "2", "3"], "train_per_class": 10, "size_px": 8},
        "training": {
            "initialization.start": "random",
            "schedule.epochs": 2.0,
            "batches.size": 20,
            "selection.weights": "last",
            "optimizer.learning_rate": 0.01,
            "layers.backbone_learning_rate": 1e25,
        },
    }
    code = f"import jaxft; print(*jaxft.run_study({study!r}, {str(tmp_path / 's')!r}, quiet=True)['status'])"
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["diverged"]


def test_is_finite_checks_parameters_and_statistics():
    _, (lane,) = program_and_lanes([0.01], **{"layers.backbone_learning_rate": "frozen"})
    for leaf in ("params", "batch_stats"):
        values = {"params": dict(lane.params), "batch_stats": dict(lane.batch_stats)}
        name = {"params": "head/bias", "batch_stats": "stage1/block1/bn1/var"}[leaf]
        assert bool(is_finite(values["params"], values["batch_stats"]))
        values[leaf][name] = values[leaf][name].at[0].set(np.inf)
        assert not bool(is_finite(values["params"], values["batch_stats"]))


@pytest.mark.parametrize("select", ["best", "last"])
def test_a_diverged_epoch_is_never_selected(select):
    """Only the head trains for one epoch; then the backbone joins with a learning rate that leads to NaN."""
    program, (lane,) = program_and_lanes(
        [0.01],
        **{
            "layers.backbone_learning_rate": 1e25,
            "layers.unfreeze_epochs": (1.0,),
            "schedule.epochs": 3.0,
            "selection.weights": select,
            "schedule.shape": "constant",
        },
    )
    (outcome,) = run_chunk(program, [lane], images()[0])
    assert outcome.diverged and np.isfinite(outcome.curves["val_loss"]).tolist() == [True, False, False]
    first = dataclasses.replace(program, phases=program.phases[:1], epoch_ends=program.epoch_ends[:1])
    (healthy,) = run_chunk(first, [lane], images()[0])
    assert healthy.selected_epoch == 1.0 and not healthy.diverged
    for kept, before in ((outcome.params, healthy.params), (outcome.batch_stats, healthy.batch_stats)):
        for name in before:
            np.testing.assert_array_equal(kept[name], before[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "executor",
    [
        Sequential(),
        Vmap(8),
        Devices(8, 4),
        Pmap(8, 4),
        DataParallel(1, 2),
    ],
    ids=str,
)
def test_a_diverged_trial_does_not_affect_others(executor):
    """The other trials are bit-identical to a run of the same width in which no trial diverges."""
    healthy_rates = [0.01, 0.02, 0.03, 0.02, 0.01, 0.02, 0.03, 0.02]
    bad = 3

    def outcomes(backbone_rate):
        lanes = []
        for i, rate in enumerate(healthy_rates):
            fields = {
                "layers.backbone_learning_rate": backbone_rate if i == bad else rate,
                "augmentation.flip.enabled": True,
            }
            program, seeded = program_and_lanes([rate] * (i + 1), **fields)
            lanes.append(seeded[i])
        chunks = [lanes] if executor.width > 1 else [[lane] for lane in lanes]
        return [outcome for chunk in chunks for outcome in run_chunk(program, chunk, images()[0], executor=executor)]

    harmed, healthy = outcomes(1e25), outcomes(0.02)
    assert [outcome.diverged for outcome in harmed] == [i == bad for i in range(8)]
    assert not any(outcome.diverged for outcome in healthy)
    for i in (i for i in range(8) if i != bad):
        for one, other in ((harmed[i].params, healthy[i].params), (harmed[i].batch_stats, healthy[i].batch_stats)):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
        for name in harmed[i].curves:
            np.testing.assert_array_equal(harmed[i].curves[name], healthy[i].curves[name])
        np.testing.assert_array_equal(harmed[i].test_predictions, healthy[i].test_predictions)
        assert harmed[i].selected_epoch == healthy[i].selected_epoch


@pytest.mark.slow
def test_the_best_validation_epoch_is_selected_and_tested():
    program, lanes = program_and_lanes([0.3], **{"schedule.epochs": 6.0})
    outcome = run_chunk(program, lanes, images()[0])[0]
    accuracy, loss = outcome.curves["val_accuracy"], outcome.curves["val_loss"]
    best = max(range(6), key=lambda epoch: (accuracy[epoch], -loss[epoch]))
    assert outcome.selected_epoch == best + 1 and outcome.metrics["val_accuracy"] == accuracy[best]
    shorter = dataclasses.replace(program, epoch_ends=(program.epoch_ends[0][: best + 1],), select="last")
    stopped = run_chunk(shorter, lanes, images()[0])[0]
    for name in stopped.params:
        np.testing.assert_array_equal(stopped.params[name], outcome.params[name])
    predictions = outcome.test_predictions
    assert outcome.metrics["test_accuracy"] == np.mean(predictions == images()[1][lanes[0].test])


@pytest.mark.slow
def test_a_trial_learns_a_simple_task():
    program, lanes = program_and_lanes([0.1], **{"schedule.epochs": 30.0})
    outcome = run_chunk(program, lanes, images()[0])[0]
    assert outcome.metrics["test_accuracy"] > 0.9 and outcome.curves["train_loss"][-1] < 0.1


class Memory:
    """Checkpoints in memory. Raises after saving a given position, as if the process were killed."""

    def __init__(self, killed_at=None):
        self.saved, self.killed_at = {}, killed_at

    def latest(self):
        return max(self.saved, default=None)

    def load(self, position, like):
        assert jax.tree.structure(self.saved[position]) == jax.tree.structure(like)
        return self.saved[position]

    def save(self, position, tree):
        assert all(position > before for before in self.saved)
        self.saved = {position: jax.tree.map(np.array, tree)}
        if position == self.killed_at:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed_at", "width"),
    [((1, 3, 1), 1), *((at, 2) for at in ((0, 1, 0), (0, 2, 1), (0, 4, 2), (1, 2, 0), (1, 3, 1), (1, 6, 3)))],
)
def test_a_resumed_chunk_is_bit_identical(killed_at, width, monkeypatch):
    """Two epochs of a linear probe, then three of fine-tuning, each of two steps, stopped at different positions."""
    monkeypatch.setattr("jaxft.study.chunk.loop.LOOP_SECONDS", 0.0)  # a step at a time
    program, lanes = program_and_lanes(
        [0.05, 0.1], **{"linear_probe.epochs": 2.0, "schedule.epochs": 3.0, "augmentation.flip.enabled": True}
    )
    # A probe freezes the backbone, which trials that run together share.
    lanes = [lanes[0], dataclasses.replace(lanes[1], params=lanes[0].params)][:width]
    whole = run_chunk(program, lanes, images()[0])
    memory = Memory(Position(*killed_at))
    with pytest.raises(KeyboardInterrupt):
        run_chunk(program, lanes, images()[0], policy=CheckpointPolicy(memory, 0))
    memory.killed_at = None
    continued = run_chunk(program, lanes, images()[0], policy=CheckpointPolicy(memory, 0))
    for one, other in zip(whole, continued):
        for name in one.params:
            np.testing.assert_array_equal(one.params[name], other.params[name])
        for name in one.curves:
            np.testing.assert_array_equal(one.curves[name], other.curves[name])
        assert one.metrics == other.metrics and one.selected_epoch == other.selected_epoch


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 10**9 - 1), st.integers(0, 10**5 - 1)), min_size=2))
def test_checkpoint_numbers_are_in_the_order_of_positions(fields):
    positions = [Position(*each) for each in fields]
    assert [position_of(number_of(position)) for position in positions] == positions
    assert sorted(positions) == sorted(positions, key=number_of)


def test_a_chunk_stopped_in_feature_computation_resumes_after_the_previous_phase(monkeypatch):
    program, lanes = program_and_lanes([0.05], **{"linear_probe.epochs": 1.0, "schedule.epochs": 1.0})
    (whole,), memory = run_chunk(program, lanes, images()[0]), Memory()
    prepare_phase_data = loop.prepare_phase_data

    def stopped_in_phase_1(chunk, number, *args):
        if number == 1:
            raise interrupts.Stopped
        return prepare_phase_data(chunk, number, *args)

    with monkeypatch.context() as patch, pytest.raises(interrupts.Stopped):
        patch.setattr(loop, "prepare_phase_data", stopped_in_phase_1)
        run_chunk(program, lanes, images()[0], policy=CheckpointPolicy(memory))
    assert memory.latest() == Position(1)
    (continued,) = run_chunk(program, lanes, images()[0], policy=CheckpointPolicy(memory))
    assert all(np.array_equal(whole.params[name], continued.params[name]) for name in whole.params)


@pytest.mark.slow
def test_a_probe_trains_the_head_and_fine_tuning_all_leaves():
    program, lanes = program_and_lanes(
        [0.1], **{"linear_probe.epochs": 1.0, "schedule.epochs": 1.0, "selection.weights": "last"}
    )
    probe_only = dataclasses.replace(program, phases=program.phases[:1], epoch_ends=program.epoch_ends[:1])
    probed, whole = run_chunk(probe_only, lanes, images()[0])[0], run_chunk(program, lanes, images()[0])[0]
    for name, start in lanes[0].params.items():
        assert (np.asarray(probed.params[name]) == np.asarray(start)).all() == (not name.startswith("head"))
        assert (np.asarray(whole.params[name]) != np.asarray(start)).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "num_val", "size"),
    [(0, 100, 32), (0, 10, 32), (64, 100, 64), (64, 40, 64), (512, 100, 128), (16, 100, 16)],
)
def test_size_of_an_evaluation_batch(limit, num_val, size):
    program, (lane,) = program_and_lanes([0.1])
    lane = dataclasses.replace(lane, val=np.zeros(num_val, np.int32), test=np.zeros(500, np.int32))
    assert eval_batch(dataclasses.replace(program, eval_batch_size=limit), [lane], 1) == size


@pytest.mark.slow
def test_evaluation_of_sets_of_different_sizes():
    program, lanes = program_and_lanes([0.1, 0.1])
    phase = program.phases[0]
    params = [split_variables(phase, lane.params, lane.batch_stats) for lane in lanes]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[p[:2] for p in params])
    labels = jnp.stack([lane.labels for lane in lanes])
    rows = [np.arange(37, dtype=np.int32), np.arange(3, dtype=np.int32)]
    lanes = [dataclasses.replace(lane, val=of) for lane, of in zip(lanes, rows)]
    phase_data = PhaseData(phase, params[0][2], images()[0], labels, jnp.zeros((2, 1, 6), jnp.int32))
    scores = evaluate(Chunk(program, lanes, Vmap(2)), phase_data, *stacked, "val")
    loss, accuracy, predictions = scores.loss, scores.metrics["accuracy"], scores.predictions
    assert [len(p) for p in predictions] == [37, 3]
    for i, lane in enumerate(lanes):
        variables = {"params": paths.unflatten(lane.params), "batch_stats": paths.unflatten(lane.batch_stats)}
        logits = np.asarray(MODEL.apply(variables, PLAIN.apply(images()[0][rows[i]])), np.float64)
        expected = -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
        assert loss[i] == pytest.approx(expected[np.arange(len(logits)), lane.labels[rows[i]]].mean(), rel=1e-5)
        right = logits.argmax(1) == lane.labels[rows[i]]
        assert accuracy[i] == pytest.approx(right.mean())
        by_class = [right[lane.labels[rows[i]] == label].mean() for label in range(CLASSES)]
        assert scores.metrics["mean_per_class"][i] == pytest.approx(np.mean(by_class))


def test_width_one_removes_the_trial_axis():
    def shapes(trial_array, shared):
        assert trial_array.ndim == 1 and shared.ndim == 1
        return trial_array + shared

    for width in (1, 3):
        result = jax.jit(over_trials(shapes, width, num_shared=1))(jnp.ones((width, 2)), jnp.ones(2))
        assert result.shape == (width, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "executor",
    [
        Devices(2, 2),
        pytest.param(Devices(8, 4), marks=pytest.mark.nightly),
        Pmap(8, 4),
    ],
    ids=str,
)
def test_executors_agree(executor):
    """Sequential trials, and trials that are spread over devices, one or two on each."""
    program, lanes = program_and_lanes(
        [0.01 * (1 + i) for i in range(executor.width)], **{"schedule.epochs": 1.0, "augmentation.flip.enabled": True}
    )
    expected = [run_chunk(program, [lane], images()[0])[0] for lane in lanes]
    for one, other in zip(expected, run_chunk(program, lanes, images()[0], executor=executor)):
        assert_close(one.params, other.params)
        assert_close(one.batch_stats, other.batch_stats)
        assert other.metrics["val_accuracy"] == pytest.approx(one.metrics["val_accuracy"], abs=1 / 8)


def ten_each(executor):
    """Returns the bytes on each device, if a trial takes ten bytes."""
    return 10 * executor.width / executor.num_devices


def test_candidates_of_auto_on_a_cpu(monkeypatch):
    monkeypatch.setattr("jaxft.study.candidates.num_cores", lambda: 3)
    execution = Execution()
    assert candidates(Workload(execution, 8, [32], False, ten_each)) == [Sequential(), Workers()]
    assert candidates(Workload(execution, 1, [32], False, ten_each)) == [Sequential()]
    assert candidates(Workload(execution, 8, [32], True, ten_each)) == [Vmap(8)]
    assert num_workers(execution, 8) == 3 and num_workers(execution, 2) == 2
    assert num_workers(Execution(workers=2), 8) == 2


def test_the_width_fits_in_the_memory():
    """Up to eleven trials of 10 bytes each, on eight devices."""
    wide = Execution(executor="vmap", memory_bytes=45.0)
    assert candidates(Workload(wide, 11, [32], False, ten_each)) == [Vmap(4)]
    assert candidates(Workload(wide, 3, [32], False, ten_each)) == [Vmap(3)]
    assert candidates(Workload(Execution(executor="vmap", width=2), 11, [32], False, ten_each)) == [Vmap(2)]
    assert candidates(Workload(Execution(executor="devices"), 11, [32], False, ten_each)) == [Devices(16, 8)]
    assert candidates(Workload(Execution(executor="pmap", width=1), 11, [32], False, ten_each)) == [Pmap(8, 8)]


def test_needed_bytes_of_compiled_programs():
    """A trial has 8 x 3 + 3 parameters of a head, their momentum and best values, metrics of a loop, a batch of 6."""
    program, lanes = program_and_lanes(
        [0.1],
        **{"layers.backbone_learning_rate": "frozen", "batch_norm.statistics": "frozen", "optimizer.momentum": 0.9},
    )
    pixels = np.asarray(images()[0])
    one, two, eight = (needed_bytes(program, lanes[0], pixels, Vmap(width)) for width in (1, 2, 8))
    lane = 3 * 4 * (8 * 3 + 3) + 4 * MAX_LOOP_STEPS * 2 + 4 * 6 * 8
    assert lane <= two - one <= lane + 4 * 6 * 8 + 2000
    assert eight - two == pytest.approx(6 * (two - one), rel=0.05)
    shared = 4 * 8 * len(pixels)  # the kept features
    assert one >= shared + lane
    over_devices = needed_bytes(program, lanes[0], pixels, Devices(16, 8))
    assert over_devices == pytest.approx(two, rel=0.05)
    assert needed_bytes(program, lanes[0], pixels, Pmap(16, 8)) == two


def test_data_parallel_uses_the_largest_number_of_devices_that_divides_the_batches():
    execution = Execution(executor="data_parallel")
    assert candidates(Workload(execution, 4, [32, 20], False, ten_each)) == [DataParallel(1, 4)]
    with pytest.raises(UserError, match="no number of devices from 2 to 8 divides the batch sizes 9, 11"):
        candidates(Workload(execution, 4, [9, 11], False, ten_each))


def test_the_widest_executor_that_fits():
    def needed(executor):
        """Returns 100 bytes and 10 for each trial on a device; the compiler fails for more than 20 trials."""
        lanes = executor.width // executor.num_devices
        return math.inf if lanes > 20 else 100 + 10 * lanes

    assert widest_fitting(Vmap(16), needed, 260) == Vmap(16)
    assert widest_fitting(Vmap(32), needed, 1000) == Vmap(16)
    assert widest_fitting(Vmap(16), needed, 200) == Vmap(10)  # after 12
    assert widest_fitting(Vmap(16), needed, 50) == Vmap(1)
    assert widest_fitting(Devices(128, 8), needed, 200) == Devices(80, 8)


@pytest.mark.slow
def test_steps_are_timed_as_an_executor_runs_them():
    program, lanes = program_and_lanes([0.1], **{"schedule.epochs": 1.0})
    for executor in (Sequential(), Vmap(2)):
        assert 0 < time_steps(program, lanes[0], np.asarray(images()[0]), executor, seconds=0.01) < 60


@pytest.mark.slow
def test_data_parallel_batch_norm_uses_the_whole_batch():
    """One trial with batches of six images on three devices."""
    program, lanes = program_and_lanes([0.05], **{"schedule.epochs": 2.0})
    one = run_chunk(program, lanes, images()[0])[0]
    other = run_chunk(program, lanes, images()[0], executor=DataParallel(1, 3))[0]
    assert_close(one.params, other.params)
    assert_close(one.batch_stats, other.batch_stats)


# --- uneven classes, and crops of larger images -----------------------------------------------------------------


@pytest.mark.slow
def test_balanced_batches_reach_the_steps(monkeypatch):
    """With eight images of class 0, three of 1 and one of 2, a batch of six has two images of each class."""
    seen = []

    def spy(*args):
        seen.append(args)
        return balanced_indices(*args)

    monkeypatch.setattr("jaxft.study.chunk.phase_data.balanced_indices", spy)
    program, lanes = program_and_lanes([0.1])
    labels = images()[1]
    rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in enumerate((8, 3, 1))])
    lane = dataclasses.replace(lanes[0], train=rows.astype(np.int32), balanced=True)
    outcome = run_chunk(program, [lane], images()[0])[0]
    assert not outcome.diverged and len(seen) == 1
    drawn = balanced_indices(*seen[0])
    assert drawn.shape == (4, 6) and all(np.bincount(labels[batch]).tolist() == [2, 2, 2] for batch in drawn)


def test_mean_per_class_of_the_selected_epoch_and_of_the_predictions():
    program, lanes = program_and_lanes([0.1], **{"schedule.epochs": 3.0})
    outcome = run_chunk(program, lanes, images()[0])[0]
    chosen = outcome.curves["epoch"].tolist().index(outcome.selected_epoch)
    assert outcome.metrics["val_mean_per_class"] == outcome.curves["val_mean_per_class"][chosen]
    labels = images()[1][lanes[0].test]
    by_class = [(outcome.test_predictions == labels)[labels == label].mean() for label in range(CLASSES)]
    assert outcome.metrics["test_mean_per_class"] == pytest.approx(np.mean(by_class))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"layers.backbone_learning_rate": "frozen", "augmentation.views": 2, "augmentation.flip.enabled": True},
        {"augmentation.flip.enabled": True},
    ],
    ids=["kept features", "images"],
)
def test_ten_crops_only_for_test_images(fields):
    """Crops of 8 x 8 px of images of 11 x 11 px: validation uses the center crop, the test all ten."""
    program, lanes = program_and_lanes([0.1], **{"augmentation.crop.size_px": SIZE}, **fields)
    larger = jnp.asarray(np.random.default_rng(2).integers(0, 256, (NUM, 11, 11, 3)), jnp.uint8)
    features = FeatureCache(1e9)
    center, ten = (
        run_chunk(dataclasses.replace(program, test_crops=crops), lanes, larger, services=Services(features))[0]
        for crops in ("center", "ten")
    )
    assert_close(center.params, ten.params)
    np.testing.assert_array_equal(center.curves["val_loss"], ten.curves["val_loss"])
    variables = {"params": paths.unflatten(ten.params), "batch_stats": paths.unflatten(ten.batch_stats)}
    rows = lanes[0].test
    seen = {"center": larger[rows, 1:9, 1:9][:, None], "ten": ten_crops(larger[rows], SIZE)}
    for outcome, crops in ((center, seen["center"]), (ten, seen["ten"])):
        logits = MODEL.apply(variables, PLAIN.apply(crops.reshape(-1, SIZE, SIZE, 3)))
        shares = jax.nn.softmax(logits).reshape(len(rows), -1, CLASSES).mean(1)
        assert outcome.test_predictions.tolist() == shares.argmax(1).tolist()


@pytest.mark.nightly
@dataclasses.dataclass(frozen=True)
class Unrolled(Executor):
    """An executor of a plug-in: one program runs one trial after another, without vmap."""

    name = "unrolled"

    @classmethod
    def fit(cls, workload):
        return cls(min(workload.num_trials, 2))

    def compile(self, function, num_shared, donate=()):
        def unrolled(*args):
            trial_args, shared = args[: len(args) - num_shared], args[len(args) - num_shared :]
            trials = [function(*jax.tree.map(lambda x, i=i: x[i], trial_args), *shared) for i in range(self.width)]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trials)

        return jax.jit(unrolled, donate_argnums=donate)


def test_a_registered_executor_runs_trials(monkeypatch):
    monkeypatch.setattr(EXECUTORS, "entries", dict(EXECUTORS.items()))
    EXECUTORS.register("unrolled", Unrolled)
    execution = dataclasses.replace(Execution(), executor="unrolled")
    (executor,) = candidates(Workload(execution, 3, [6], False, lambda executor: 0.0))
    assert executor == create_executor("unrolled", 2) and str(executor) == "unrolled at width 2"
    program, lanes = program_and_lanes([0.01, 0.03], **{"schedule.epochs": 1.0})
    for lane, outcome in zip(lanes, run_chunk(program, lanes, images()[0], executor=executor)):
        (alone,) = run_chunk(program, [lane], images()[0])
        assert_close(alone.params, outcome.params)
    assert all(entry.value.name == name for name, entry in EXECUTORS.items())


@pytest.mark.slow
def test_executors_agree_with_augmentation():
    fields = {
        "augmentation.color_jitter.hue": 0.1,
        "augmentation.erasing.probability": 0.5,
        "augmentation.cutmix.alpha": 1.0,
        "loss.class_weights": "inverse",
    }
    program, lanes = program_and_lanes([0.01, 0.02, 0.03, 0.04], **{"schedule.epochs": 1.0}, **fields)
    weights = jnp.array([0.5, 1.0, 1.5])
    lanes = [dataclasses.replace(lane, hparams=lane.hparams._replace(class_weights=weights)) for lane in lanes]
    expected = [run_chunk(program, [lane], images()[0])[0] for lane in lanes]
    for one, other in zip(expected, run_chunk(program, lanes, images()[0], executor=Devices(4, 2))):
        assert_close(one.params, other.params)
    alone = run_chunk(program, lanes[:1], images()[0], executor=DataParallel(1, 3))[0]
    assert_close(expected[0].params, alone.params)


# --- gradual unfreezing, and averages ---------------------------------------------------------------------------


def test_frozen_leaves_are_bit_identical():
    """With weight decay, clipping, SAM and averaging; the statistics of a frozen prefix are bit-identical too."""
    fields = {
        "optimizer.weight_decay": 0.1,
        "optimizer.clip_norm": 0.5,
        "optimizer.sam_radius": 0.1,
        "optimizer.ema_decay": 0.9,
        "optimizer.name": "adamw",
    }
    rules = (("stem/.*|stage1/.*|stage2/.*/scale", "frozen"),)
    program, lanes = program_and_lanes([0.05], **{"schedule.epochs": 1.0, "layers.rates": rules}, **fields)
    outcome = run_chunk(program, lanes, images()[0])[0]
    for name, start in lanes[0].params.items():
        frozen = name.startswith(("stem", "stage1")) or (name.startswith("stage2") and name.endswith("scale"))
        assert (np.asarray(outcome.params[name]).tobytes() == np.asarray(start).tobytes()) == frozen, name
    for name, start in lanes[0].batch_stats.items():
        assert (outcome.batch_stats[name] == start).all() == name.startswith(("stem", "stage1")), name


@pytest.mark.slow
def test_leaves_continue_training_across_an_unfreezing():
    """The backbone has a learning rate of 1e-30, which changes no float32 weight. So the head trains as in one phase.

    Its momentum, schedule and average continue, and the best epoch is selected from all phases.
    """
    fields = {
        "batch_norm.statistics": "frozen",
        "layers.backbone_learning_rate": 1e-30,
        "schedule.epochs": 4.0,
        "optimizer.ema_decay": 0.8,
        "optimizer.momentum": 0.9,
    }
    whole, lanes = program_and_lanes([0.3], **{"schedule.shape": "cosine"}, **fields)
    parts, _ = program_and_lanes([0.3], **{"schedule.shape": "cosine", "layers.unfreeze_epochs": (1.0, 2.5)}, **fields)
    assert [phase.num_steps for phase in parts.phases] == [2, 3, 3] and parts.num_epochs == 5
    last = (dataclasses.replace(program, select="last") for program in (whole, parts))
    one, other = (run_chunk(program, lanes, images()[0])[0] for program in last)
    for name in ("head/kernel", "head/bias"):
        np.testing.assert_allclose(one.params[name], other.params[name], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one.curves["val_loss"][-1], other.curves["val_loss"][-1], rtol=1e-4)
    best = run_chunk(parts, lanes, images()[0])[0]
    assert best.metrics["val_accuracy"] == best.curves["val_accuracy"].max()


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [(0, 2, 0), (0, 2, 1), (1, 1, 0), (1, 2, 0), (2, 2, 0)], ids=str)
def test_a_chunk_resumed_at_an_unfreezing_is_bit_identical(killed_at, monkeypatch):
    """Two steps of the head, two of head and last stage, two of all layers."""
    monkeypatch.setattr("jaxft.study.chunk.loop.LOOP_SECONDS", 0.0)  # a step at a time
    fields = {
        "schedule.epochs": 3.0,
        "layers.unfreeze_epochs": (1.0, 2.0),
        "optimizer.name": "adamw",
        "optimizer.ema_decay": 0.9,
        "selection.weights": "last",
    }
    program, lanes = program_and_lanes([0.05], **fields)
    whole = run_chunk(program, lanes, images()[0])[0]
    memory = Memory(Position(*killed_at))
    with pytest.raises(KeyboardInterrupt):
        run_chunk(program, lanes, images()[0], policy=CheckpointPolicy(memory, 0))
    memory.killed_at = None
    continued = run_chunk(program, lanes, images()[0], policy=CheckpointPolicy(memory, 0))[0]
    for name in whole.params:
        np.testing.assert_array_equal(whole.params[name], continued.params[name])
        assert (np.asarray(whole.params[name]) != np.asarray(lanes[0].params[name])).any()
    for name in whole.batch_stats:
        np.testing.assert_array_equal(whole.batch_stats[name], continued.batch_stats[name])
    for name in whole.curves:
        np.testing.assert_array_equal(whole.curves[name], continued.curves[name])
    assert whole.selected_epoch == continued.selected_epoch


@pytest.mark.slow
def test_the_average_is_evaluated_and_kept():
    """After two steps, the average is (d w1 + w2) / (1 + d)."""
    fields = {"schedule.shape": "constant", "selection.weights": "last", "schedule.epochs": 20.0}
    ends = []
    for changes in ({"schedule.steps": 1}, {"schedule.steps": 2}, {"schedule.steps": 2, "optimizer.ema_decay": 0.75}):
        program, lanes = program_and_lanes([0.1], **fields, **changes)
        ends.append(run_chunk(program, lanes, images()[0])[0])
    one, two, average = ends
    for name in average.params:
        expected = (0.75 * np.asarray(one.params[name]) + np.asarray(two.params[name])) / 1.75
        np.testing.assert_allclose(average.params[name], expected, rtol=2e-4, atol=1e-6)
    variables = {"params": paths.unflatten(average.params), "batch_stats": paths.unflatten(average.batch_stats)}
    logits = MODEL.apply(variables, PLAIN.apply(images()[0][lanes[0].test]))
    assert average.test_predictions.tolist() == logits.argmax(1).tolist()


@pytest.mark.nightly
@pytest.mark.slow
def test_executors_agree_with_accumulation_sam_averaging_and_unfreezing():
    fields = {
        "batches.accumulate": 2,
        "optimizer.sam_radius": 0.05,
        "optimizer.ema_decay": 0.9,
        "optimizer.clip_norm": 1.0,
        "layers.unfreeze_epochs": (0.5,),
    }
    program, lanes = program_and_lanes([0.01, 0.02, 0.03, 0.04], **{"schedule.epochs": 1.0}, **fields)
    lanes = [dataclasses.replace(lane, params=lanes[0].params) for lane in lanes]
    expected = [run_chunk(program, [lane], images()[0])[0] for lane in lanes]
    for executor in (Vmap(4), Devices(4, 2), Pmap(4, 4)):
        for one, other in zip(expected, run_chunk(program, lanes, images()[0], executor=executor)):
            assert_close(one.params, other.params)
    alone = run_chunk(program, lanes[:1], images()[0], executor=DataParallel(1, 3))[0]
    assert_close(expected[0].params, alone.params)


# --- factors of all kinds together ------------------------------------------------------------------------------


def low_rank(lanes, rank=2, alpha=4.0):
    """Returns trials of one network with LoRA factors, where B is not zero."""
    lora_lanes = []
    for lane in lanes:
        names = [
            n for n in with_adapters(Training.of({"layers.tune": "lora"}), MODEL, tuple(lane.params)) if is_adapter(n)
        ]
        factors = init_adapters(names, lane.params, rank, jax.random.key(3))
        moved_factors = {
            n: leaf + 0.02 * jax.random.normal(jax.random.key(5), leaf.shape) for n, leaf in factors.items()
        }
        lora_lanes.append(
            dataclasses.replace(lane, params=dict(lanes[0].params) | moved_factors, batch_stats=lanes[0].batch_stats)
        )
    return lora_lanes


def lora_program_and_lanes(rates, **fields):
    """Returns the result of `program_and_lanes` for trials with LoRA below the head."""
    fields = {
        "layers.tune": "lora",
        "layers.lora_rank": 2,
        "layers.lora_alpha": 4.0,
        "initialization.start": "pretrained",
        **fields,
    }
    _, lanes = program_and_lanes(rates, **fields)
    names = tuple(lanes[0].params)
    lora_lanes, program = [], None
    for lane, rate in zip(low_rank(lanes), rates):
        training = Training.of(
            {
                "schedule.epochs": 2.0,
                "batches.size": 6,
                "optimizer.momentum": 0.5,
                **fields,
                "optimizer.learning_rate": rate,
            }
        )
        layers = resolve_layers(
            training, MODEL, with_adapters(training, MODEL, names), tuning_rules(training, MODEL, names)
        )
        phases = make_phases(MODEL, PLAIN, training, layers, tuple(lane.batch_stats), 12)
        program = make_program(phases, training.selection.weights, eval_batch_size=16, num_train=12)
        source = {"params": {name: lane.params[name] for name in names}, "batch_stats": lane.batch_stats}
        lora_lanes.append(dataclasses.replace(lane, hparams=make_hparams(training, layers), source=source))
    return program, lora_lanes


@pytest.mark.slow
def test_a_step_of_lora_with_l2_sp_and_sam():
    """One step of SAM on cross-entropy + a/2 ||s A B||^2 in micro-batches with weight averaging, written out here.

    The average of a single value is this value.
    """
    fields = {
        "regularization.l2_sp.strength": 2.0,
        "optimizer.sam_radius": 0.05,
        "optimizer.ema_decay": 0.9,
        "batches.accumulate": 2,
        "batch_norm.statistics": "frozen",
    }
    fields |= {
        "schedule.shape": "constant",
        "optimizer.momentum": 0.0,
        "schedule.steps": 1,
        "selection.weights": "last",
        "schedule.epochs": 20.0,
    }
    program, (lane,) = lora_program_and_lanes([0.05], **fields)
    (phase,) = program.phases
    assert {name for name, _ in phase.regularizers.static("l2_sp").leaves} == {
        name for name in lane.source["params"] if name.endswith("kernel") and not name.startswith("head/")
    }
    outcome = run_chunk(program, [lane], images()[0])[0]
    (rows,) = batch_indices(lane.train, lane.order_seed, StepRange(0, 1, 6, 1, NUM))
    trainable = {name: lane.params[name] for name in phase.trainable}
    kernels = [name for name, _ in phase.regularizers.static("l2_sp").leaves]

    def merge(trainable):
        merged = dict(lane.params) | trainable
        for kernel in kernels:
            a, b = (merged[kernel.removesuffix("kernel") + which] for which in ("lora_a", "lora_b"))
            merged[kernel] = merged[kernel] + 4 / 2 * (a @ b).reshape(merged[kernel].shape)
        return {name: merged[name] for name in lane.source["params"]}

    @jax.jit
    @jax.grad
    def gradient(trainable):
        merged = merge(trainable)
        variables = {"params": paths.unflatten(merged), "batch_stats": paths.unflatten(lane.batch_stats)}
        shares = jax.nn.log_softmax(MODEL.apply(variables, PLAIN.apply(images()[0][rows])))
        loss = -shares[jnp.arange(6), jnp.asarray(lane.labels)[rows]].mean()
        return loss + sum(((merged[name] - lane.params[name]) ** 2).sum() for name in kernels)  # a/2 is 1

    grads = gradient(trainable)
    norm = np.sqrt(sum(float((grad**2).sum()) for grad in grads.values()))
    at_point = gradient({name: leaf + 0.05 * grads[name] / norm for name, leaf in trainable.items()})
    expected = merge({name: leaf - 0.05 * at_point[name] for name, leaf in trainable.items()})
    assert outcome.params.keys() == lane.source["params"].keys()  # a plain network
    for name, start in merge(trainable).items():
        moved = np.abs(np.asarray(expected[name]) - np.asarray(start)).max()
        np.testing.assert_allclose(outcome.params[name], expected[name], atol=5e-3 * moved + 1e-6, err_msg=name)


TOGETHER = {
    "low rank": {
        "regularization.l2_sp.strength": 0.5,
        "optimizer.sam_radius": 0.05,
        "optimizer.ema_decay": 0.9,
        "batches.accumulate": 2,
        "regularization.dropout.rate": 0.3,
    },
    "unfreezing": {
        "layers.unfreeze_epochs": (0.5, 1.0),
        "batch_norm.statistics": "recalibrated",
        "optimizer.ema_decay": 0.9,
        "regularization.l2_sp.head": 0.1,
    },
    "parts of virtual batches": {
        "batches.size": 12,
        "batches.accumulate": 2,
        "batch_norm.virtual_batch_size": 3,
        "batch_norm.statistics": "recalibrated",
        "regularization.bss.strength": 0.01,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] * (name == "low rank")) for name in TOGETHER]
)
def test_combined_factors_agree_under_vmap_and_sequentially(name):
    is_lora = name == "low rank"
    batch_norm = {"batch_norm.statistics": "recalibrated"} if is_lora else {}
    make = lora_program_and_lanes if is_lora else program_and_lanes
    program, lanes = make([0.02, 0.05], **TOGETHER[name], **batch_norm)
    lanes = [dataclasses.replace(lane, params=lanes[0].params, batch_stats=lanes[0].batch_stats) for lane in lanes]
    together = run_chunk(program, lanes, images()[0])
    for lane, outcome in zip(lanes, together):
        alone = run_chunk(program, [lane], images()[0])[0]
        assert_close(alone.params, outcome.params)
        assert_close(alone.batch_stats, outcome.batch_stats)
        # Recalibrated statistics of the first batch norm are those of its input under the selected weights.
        stem = np.asarray(outcome.params["stem/conv/kernel"])
        seen = PLAIN.apply(images()[0][lane.train])
        maps = jax.lax.conv_general_dilated(
            seen, stem, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        values = np.asarray(maps, np.float64).reshape(-1, maps.shape[-1])
        np.testing.assert_allclose(outcome.batch_stats["stem/bn/mean"], values.mean(0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(outcome.batch_stats["stem/bn/var"], values.var(0, ddof=1), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_noise_does_not_depend_on_micro_batches():
    """With frozen statistics, dropout, stochastic depth and L2-SP do not depend on the number of micro-batches."""
    fields = {
        "regularization.dropout.rate": 0.4,
        "regularization.stochastic_depth.rate": 0.4,
        "regularization.l2_sp.head": 0.3,
        "batch_norm.statistics": "frozen",
        "schedule.epochs": 1.0,
    }
    program, lanes = program_and_lanes([0.05], **fields)
    in_micro_batches, _ = program_and_lanes([0.05], **fields, **{"batches.accumulate": 3})
    one, other = (run_chunk(each, lanes, images()[0])[0] for each in (program, in_micro_batches))
    assert_close(one.params, other.params)


# --- a probe to the minimum -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("num_views", [0, 3])
def test_an_lbfgs_probe_equals_logistic_regression_of_scikit_learn(num_views):
    """On pooled features of the images or of all their views, where C = 1 / (decay * number of images)."""
    from sklearn.linear_model import LogisticRegression

    decays = [0.01, 0.1]
    changes = {"augmentation.views": num_views, "augmentation.flip.enabled": True} if num_views else {}
    fields = {
        "linear_probe.epochs": 60.0,
        "schedule.epochs": 0.0,
        "linear_probe.optimizer": "lbfgs",
        "layers.backbone_learning_rate": "frozen",
    }
    pixels, labels = images()
    outcomes = []
    for decay in decays:
        program, lanes = program_and_lanes([0.1], **{"linear_probe.weight_decay": decay}, **fields, **changes)
        outcomes += run_chunk(program, lanes, pixels, services=Services(FeatureCache(1e9)))
    assert outcomes[0].curves["epoch"].tolist() == [0.0]  # full-batch training counts no epochs
    lane, variables = lanes[0], {"params": paths.unflatten(lanes[0].params)}
    variables["batch_stats"] = paths.unflatten(lane.batch_stats)
    rows, key = jnp.asarray(lane.train), lane.augment_key
    seen = [
        view(key, pixels[rows], rows, jnp.full(len(rows), number), program.phases[0].augmentations)
        for number in range(max(num_views, 1))
    ]
    pooled = np.concatenate([MODEL.apply(variables, PLAIN.apply(x), stop="pool") for x in seen]).astype(np.float64)
    targets = np.tile(labels[lane.train], max(num_views, 1))
    for decay, outcome in zip(decays, outcomes):
        expected = LogisticRegression(C=1 / (decay * len(targets)), tol=1e-8, max_iter=5000).fit(pooled, targets)
        kernel = np.asarray(outcome.params["head/kernel"])
        np.testing.assert_allclose(kernel, expected.coef_.T, atol=2e-4 * np.abs(expected.coef_).max())
        below = [name for name in lane.params if not name.startswith("head/")]
        assert all((outcome.params[name] == lane.params[name]).all() for name in below)
        right = expected.score(pooled[: len(rows)], labels[lane.train])
        assert num_views or outcome.curves["train_accuracy"][-1] == pytest.approx(right)


@pytest.mark.slow
def test_an_lbfgs_probe_in_chunks_of_images_agrees(monkeypatch):
    """Twelve images in chunks of five: the last chunk has three rows of padding."""
    fields = {
        "linear_probe.epochs": 20.0,
        "schedule.epochs": 1.0,
        "linear_probe.optimizer": "lbfgs",
        "linear_probe.weight_decay": 0.1,
    }
    program, lanes = program_and_lanes([0.01], **fields)
    whole = run_chunk(program, lanes, images()[0])[0]
    monkeypatch.setattr("jaxft.training.lbfgs.CHUNK_SIZE", 5)
    for function in (make_train_step, make_steps, make_run_steps):
        function.cache_clear()
    parts = run_chunk(program, lanes, images()[0], services=Services(FeatureCache(1e9)))[0]
    for function in (make_train_step, make_steps, make_run_steps):
        function.cache_clear()
    assert whole.curves["epoch"].tolist() == [0.0, 1.0]
    for name, leaf in whole.params.items():
        np.testing.assert_allclose(leaf, parts.params[name], atol=2e-3 * np.abs(leaf).max() + 1e-6, err_msg=name)


# --- room for programs ------------------------------------------------------------------------------------------


def test_compiled_programs_are_dropped_if_they_take_many_memory_maps(monkeypatch):
    if not Path("/proc/self/maps").exists():
        pytest.skip("only Linux lists the memory maps of a process")
    double = jax.jit(lambda x: 2 * x)
    assert double(jnp.float32(1)) == 2
    drop_compiled_programs()  # this process has few maps, because it drops programs between tests
    assert double._cache_size() == 1
    monkeypatch.setattr(device_memory, "MAX_MEMORY_MAPS", 0)
    drop_compiled_programs()
    assert double._cache_size() == 0 and double(jnp.float32(2)) == 4


@pytest.mark.slow
def test_trials_on_devices_compile_one_program_without_gathers():
    """The initial state has the sharding that the program expects; the host splits the results by trial."""
    names = collections.Counter()

    def recorded_events(event, seconds, **labels):
        names.update([labels.get("fun_name")] * event.endswith("/backend_compile_duration"))

    program, lanes = program_and_lanes([0.011] * 16, **{"schedule.epochs": 2.0})
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(recorded_events)
    try:
        run_chunk(program, lanes, images()[0], executor=Devices(16, 8))
    finally:
        jax.monitoring.unregister_event_duration_listener(recorded_events)
    assert names["jit(step)"] == names["jit(eval_step)"] == 1
    assert not {"jit(gather)", "jit(squeeze)", "jit(dynamic_slice)"} & set(names)


def test_a_result_is_read_after_the_next_dispatch():
    log = []

    def dispatched():
        for i in range(3):
            log.append(f"dispatch {i}")
            yield i

    for i in one_behind(dispatched()):
        log.append(f"read {i}")
    assert log == ["dispatch 0", "dispatch 1", "read 0", "dispatch 2", "read 1", "read 2"]
