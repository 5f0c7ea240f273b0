"""Seconds of a step, and of the evaluation of an image."""

import dataclasses
import time
from collections.abc import Callable
from typing import Literal

import jax
import numpy as np

from jaxft.core import interrupts
from jaxft.study.chunk.compiled import make_init_states, make_run_steps
from jaxft.study.chunk.evaluation import eval_batch, evaluate
from jaxft.study.chunk.examples import example_phase
from jaxft.study.chunk.lanes import Chunk, Lane, stack
from jaxft.study.chunk.phase_data import PhaseData
from jaxft.study.chunk.program import Program
from jaxft.study.executors import Executor, Sequential
from jaxft.training.phase import Phase


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
    phase, trainable, tracked, frozen, images = example_phase(phase, lane, images)
    width = executor.width
    trainable, tracked, hparams, keys, labels = executor.put(
        stack([(trainable, tracked, lane.hparams, lane.augment_key, lane.labels)] * width)
    )
    state = executor.put(make_init_states(phase)(trainable, tracked, hparams, keys))
    steps = 1 if phase.is_full_batch else phase.num_steps
    indices = executor.put_batches(np.zeros((width, steps, phase.batch_size), np.int32))
    shared = executor.put_shared((frozen, images))
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
    subset: Literal["val", "test"] = "val" if len(lane.val) else "test"
    rows = getattr(lane, subset)[: eval_batch(program, [lane], 1)] if len(lane.val) or len(lane.test) else lane.test
    if not len(rows):
        return 0.0
    executor = Sequential()
    lane = dataclasses.replace(lane, val=rows) if subset == "val" else dataclasses.replace(lane, test=rows)
    phase, trainable, tracked, frozen, images = example_phase(program.phases[-1], lane, images)
    labels, no_batches = executor.put((lane.labels[None], np.zeros((1, 1, 1), np.int32)))
    frozen, pixels = executor.put_shared((frozen, images))
    phase_data = PhaseData(phase, frozen, pixels, labels, no_batches)
    chunk = Chunk(dataclasses.replace(program, test_crops="center"), [lane], executor)
    params, batch_stats = executor.put((stack([trainable]), stack([tracked])))
    taken = []
    for _ in range(3):
        interrupts.check()
        start = time.perf_counter()
        evaluate(chunk, phase_data, params, batch_stats, subset)
        taken.append(time.perf_counter() - start)
    return min(taken[1:]) / len(rows)
