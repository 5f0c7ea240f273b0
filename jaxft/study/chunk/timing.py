"""Measured seconds of a training step, and of the evaluation of one image."""

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


def time_steps(program: Program, example: Lane, images: np.ndarray, executor: Executor, seconds: float = 0.5) -> float:
    """Returns the median seconds of a step of the longest phase with an executor.

    The first step, which compiles, is not included.

    Args:
      program: the program of the trials.
      example: the arrays of one trial; the other trials have equal shapes.
      images: [n, h, w, 3] uint8.
      executor: the executor.
      seconds: steps are timed for about this many seconds.
    """
    phase = max(program.phases, key=lambda phase: phase.num_steps)
    run = example_steps(phase, example, images, executor)
    times: list[float] = []
    while len(times) < 2 or (sum(times[1:]) < seconds and len(times) < phase.num_steps):
        interrupts.check()
        start_time = time.perf_counter()
        run(1)
        times.append(time.perf_counter() - start_time)
    return float(np.median(times[1:]))


def example_steps(phase: Phase, example: Lane, images: np.ndarray, executor: Executor) -> Callable[[int], None]:
    """Returns a function `run(count)` that runs training steps of a phase and waits for their end.

    Args:
      phase: the phase.
      example: the arrays of one trial; the other trials have equal shapes.
      images: [n, h, w, 3] uint8.
      executor: the executor.
    """
    phase, trainable, tracked, frozen, images = example_phase(phase, example, images)
    width = executor.width
    trainable, tracked, hparams, keys, labels = executor.put(
        stack([(trainable, tracked, example.hparams, example.augment_key, example.labels)] * width)
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


def time_evaluation(program: Program, example: Lane, images: np.ndarray) -> float:
    """Returns the seconds of the evaluation of one image; zero without validation and test images.

    Whole batches are timed. The first batch, which compiles, is not included.

    Args:
      program: the program of the trial.
      example: the arrays of the trial.
      images: [n, h, w, 3] uint8.
    """
    subset: Literal["val", "test"] = "val" if len(example.val) else "test"
    rows = (
        getattr(example, subset)[: eval_batch(program, [example], 1)]
        if len(example.val) or len(example.test)
        else example.test
    )
    if not len(rows):
        return 0.0
    executor = Sequential()
    example = dataclasses.replace(example, val=rows) if subset == "val" else dataclasses.replace(example, test=rows)
    phase, trainable, tracked, frozen, images = example_phase(program.phases[-1], example, images)
    labels, no_batches = executor.put((example.labels[None], np.zeros((1, 1, 1), np.int32)))
    frozen, pixels = executor.put_shared((frozen, images))
    phase_data = PhaseData(phase, frozen, pixels, labels, no_batches)
    chunk = Chunk(dataclasses.replace(program, test_crops="center"), [example], executor)
    params, batch_stats = executor.put((stack([trainable]), stack([tracked])))
    times = []
    for _ in range(3):
        interrupts.check()
        start_time = time.perf_counter()
        evaluate(chunk, phase_data, params, batch_stats, subset)
        times.append(time.perf_counter() - start_time)
    return min(times[1:]) / len(rows)
