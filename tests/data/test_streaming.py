"""Streamed images give results that are bit-identical to images on the device, from any step, in bounded memory."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from study.test_loop import NUM, images, program_and_lanes

from jaxft.cli import main
from jaxft.core import interrupts
from jaxft.core.errors import UserError
from jaxft.data import streaming
from jaxft.data.streaming import Stream, Window, Windows
from jaxft.features.cache import FeatureCache
from jaxft.store.tables import load_results
from jaxft.study.chunk.lanes import SharedImages
from jaxft.study.chunk.loop import run_chunk
from jaxft.study.chunk.resuming import CheckpointPolicy
from jaxft.study.executors import DataParallel, Devices, Sequential
from jaxft.study.services import Services

pytest.importorskip("grain", reason="the extra 'stream' is not installed")


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """Limits a window to about two steps of a trial."""
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 2 * 6 * 8 * 8 * 3)


def pixels(n=10):
    return np.random.default_rng(0).integers(0, 256, (n, 2, 2, 3), np.uint8)


def test_a_window_is_indexed_by_rows_of_the_whole_set():
    every = pixels()
    rows = np.array([[7, 2], [2, 9]])
    window = Stream(every).window(rows, 6)
    assert len(window) == 10 and window.images.shape == (6, 2, 2, 3)
    assert (window[rows] == every[rows]).all()
    on_device = Window(jnp.asarray(window.images), jnp.asarray(window.position_of))
    assert (np.asarray(on_device[jnp.asarray(rows)]) == every[rows]).all()


@pytest.mark.parametrize("first", [0, 1, 5, 10])
def test_the_step_number_determines_the_window(monkeypatch, first):
    every = pixels()
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 3 * 4 * 12)  # three steps of 2 x 2 images of 12 bytes
    rows = np.random.default_rng(1).integers(0, 10, (2, 11, 2))
    windows = Windows(Stream(every), rows, lambda window: window)
    step = first
    while step < 11:
        window, serves = windows.at(step)
        assert serves == 3 - step % 3
        for i in range(step, min(step + serves, 11)):
            assert (window[rows[:, i]] == every[rows[:, i]]).all()
        step += serves


def test_a_window_has_at_least_one_step_and_at_most_all_images():
    windows = Windows(Stream(pixels()), np.zeros((1, 4, 50), int), lambda window: window)
    assert (windows.length, windows.capacity) == (3, 10)  # 2,304 bytes, of steps of 50 images of 12
    large = Windows(Stream(np.zeros((300, 40, 40, 3), np.uint8)), np.zeros((1, 4, 50), int), lambda window: window)
    assert (large.length, large.capacity) == (1, 50)


EXECUTORS = {
    "sequential": Sequential(),
    "devices": Devices(4, 2),  # two under vmap on each
    "data_parallel": DataParallel(1, 2),
}
AUGMENTED = {"augmentation.flip.enabled": True, "augmentation.crop.padding_px": 1}
CASES = [
    *(pytest.param(n, AUGMENTED, marks=[pytest.mark.nightly] * (n == "devices")) for n in EXECUTORS),
    ("sequential", {"augmentation.flip.enabled": True, "augmentation.views": 3}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fields"), CASES, ids=[*EXECUTORS, "views"])
def test_a_streamed_trial_is_bit_identical(name, fields):
    on_device, _ = images()
    executor = EXECUTORS[name]
    program, lanes = program_and_lanes([0.1, 0.05, 0.02, 0.01][: executor.width], **fields)
    expected = run_chunk(program, lanes, on_device, executor=executor)
    found = run_chunk(program, lanes, Stream(np.asarray(on_device)), executor=executor)
    for one, other in zip(expected, found):
        assert all(np.array_equal(one.params[name], other.params[name]) for name in one.params)
        assert all(np.array_equal(one.curves[name], other.curves[name]) for name in one.curves)
        assert one.metrics["test_accuracy"] == other.metrics["test_accuracy"]
        assert (one.test_predictions == other.test_predictions).all()


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 2])
def test_features_of_streamed_images_are_identical(tmp_path, views):
    on_device, _ = images()
    fields = {"layers.backbone_learning_rate": "frozen", "batch_norm.statistics": "frozen"} | (
        {"augmentation.views": views, "augmentation.flip.enabled": True} if views else {}
    )
    program, lanes = program_and_lanes([0.1], **fields)
    outcomes = [
        run_chunk(program, lanes, SharedImages(every, "f"), services=Services(FeatureCache(1e9)))[0]
        for every in (on_device, Stream(np.asarray(on_device)))
    ]
    assert all(np.array_equal(outcomes[0].params[name], outcomes[1].params[name]) for name in outcomes[0].params)


class MemoryCheckpoints:
    """Checkpoints in memory."""

    def __init__(self):
        self.states = {}

    def latest(self):
        return max(self.states, default=None)

    def load(self, step, like):
        return self.states[step]

    def save(self, step, tree):
        self.states[step] = tree


@pytest.mark.slow
def test_a_streamed_trial_resumes_at_any_step(monkeypatch):
    on_device, _ = images()
    program, lanes = program_and_lanes([0.1], **{"augmentation.flip.enabled": True})
    every = Stream(np.asarray(on_device))
    (expected,) = run_chunk(program, lanes, every)
    checkpoints, checks = MemoryCheckpoints(), []

    def stop_at_third_check():
        checks.append(None)
        if len(checks) == 3:
            raise interrupts.Stopped

    with monkeypatch.context() as patch:
        patch.setattr("jaxft.study.chunk.loop.MAX_LOOP_STEPS", 1)
        patch.setattr(interrupts, "check", stop_at_third_check)
        with pytest.raises(interrupts.Stopped):
            run_chunk(program, lanes, every, policy=CheckpointPolicy(checkpoints))
    assert checkpoints.latest() is not None
    (found,) = run_chunk(program, lanes, every, policy=CheckpointPolicy(checkpoints))
    assert all(np.array_equal(found.params[name], expected.params[name]) for name in expected.params)


def test_streaming_is_an_error_for_a_probe_that_uses_all_images_at_each_step():
    on_device, _ = images()
    program, lanes = program_and_lanes([0.1], **{"linear_probe.epochs": 3.0, "linear_probe.optimizer": "lbfgs"})
    with pytest.raises(
        UserError,
        match=r"is 'lbfgs', which needs all images in every step, but they take 0\.0 MB and are streamed",
    ):
        run_chunk(program, lanes, Stream(np.asarray(on_device)))


def test_a_missing_grain_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(
        UserError, match=r"the images take 0\.0 MB, more than 'execution\.device_data_bytes'; streaming needs"
    ):
        Stream(np.zeros((NUM, 2, 2, 3), np.uint8))


CONFIG = """
def get_config():
    return {
        "seeds": 2,
        "source": {"model": "toy"},
        "target": {"size_px": 8, "train_per_class": 5, "val_per_class": 2},
        "training": {"initialization.start": "random", "schedule.epochs": 2.0, "augmentation.flip.enabled": True},
        "execution": {"executor": "sequential"},
    }
"""


@pytest.mark.slow
def test_a_streamed_study_has_identical_results(tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG)
    words = ["study", f"--config={tmp_path / 'tiny.py'}"]
    assert main([*words, f"--workdir={tmp_path / 'on_device'}"]) == 0
    assert main([*words, f"--workdir={tmp_path / 'streamed'}", "--config.execution.device_data_bytes=1000"]) == 0
    one, other = (load_results(tmp_path / name).drop(columns="seconds") for name in ("on_device", "streamed"))
    assert one.equals(other)
