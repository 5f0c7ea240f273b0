"""The compiled programs of a phase, one for each pair of phase and executor."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.study.executors import Executor
from jaxft.training.adapters import merge
from jaxft.training.evaluation import Evaluation, is_finite, make_eval_step, make_moments_step
from jaxft.training.hparams import HParams
from jaxft.training.phase import EvalSpec, Phase
from jaxft.training.state import Flat, Frozen, State, init_state
from jaxft.training.step import make_train_step

MAX_LOOP_STEPS = 256  # steps of one loop on the device


@functools.cache
def make_init_states(phase: Phase) -> Callable[[Flat, Flat, HParams, jax.Array], State]:
    """Returns `init(params, batch_stats, hparams, keys) -> state`: the initial state of a phase, over the trials."""
    return jax.jit(jax.vmap(functools.partial(init_state, phase)))


@functools.cache
def make_run_steps(phase: Phase, executor: Executor) -> Callable[..., tuple[State, list[jax.Array]]]:
    """Returns `run_steps(count, state, hparams, labels, indices, frozen, images) -> (state, metrics)`.

    `run_steps` dispatches `count` steps and does not wait for them. It overwrites the arrays of the state. `metrics` is
    a list of arrays [trials, steps, 2] with the loss and accuracy of consecutive steps; entries after `count` steps are
    padding.
    """
    run = make_steps(phase, executor)

    def run_one_by_one(count: int, state: State, *rest: Any) -> tuple[State, list[jax.Array]]:
        all_metrics = []
        for _ in range(count):
            state, metrics = run(state, *rest)
            all_metrics.append(metrics)
        return state, all_metrics

    def run_loop(count: int, state: State, hparams: HParams, *rest: Any) -> tuple[State, list[jax.Array]]:
        labels, indices, frozen, images = rest
        state, metrics = run(state, hparams, labels, indices, jnp.int32(count), frozen, images)
        return state, [metrics]

    return run_loop if loops_on_device(phase) else run_one_by_one


def loops_on_device(phase: Phase) -> bool:
    """Returns whether several steps are one program with a loop.

    On a CPU, XLA convolutions inside loops are many times slower, so each step is one call, unless only the head
    trains.
    """
    return jax.default_backend() != "cpu" or phase.head_only


@functools.cache
def make_steps(phase: Phase, executor: Executor) -> Callable[..., tuple[State, jax.Array]]:
    """Returns the compiled training program of a phase, over a leading trial axis. It overwrites its first argument.

    The program is `step(state, hparams, labels, indices, frozen, images) -> (state, [trials, 1, 2])`. If
    `loops_on_device`, it is `loop(state, hparams, labels, indices, count, frozen, images) -> (state, [trials,
    MAX_LOOP_STEPS, 2])`.
    """
    train_step = make_train_step(phase)

    def step(state: State, *rest: Any) -> tuple[State, jax.Array]:
        state, metrics = train_step(state, *rest)
        return state, jnp.stack(metrics)[None]

    def loop(
        state: State, hparams: HParams, labels: Any, indices: Any, count: Any, frozen: Frozen, images: Any
    ) -> tuple[State, jax.Array]:
        def body(i: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            state, metrics = train_step(carry[0], hparams, labels, indices, frozen, images)
            return state, carry[1].at[i].set(jnp.stack(metrics))

        return jax.lax.fori_loop(0, count, body, (state, jnp.zeros((MAX_LOOP_STEPS, 2), jnp.float32)))

    if loops_on_device(phase):
        return executor.compile(loop, num_shared=3, donate=(0,))
    return executor.compile(step, num_shared=2, donate=(0,))


@functools.cache
def make_moments(network: EvalSpec, executor: Executor) -> Callable[..., Flat]:
    """Returns the compiled program of `make_moments_step`, over the trial axis."""
    return executor.compile(make_moments_step(network), num_shared=2)


@functools.cache
def make_eval(network: EvalSpec, executor: Executor) -> Callable[..., Evaluation]:
    """Returns the compiled program of `make_eval_step`, over the trial axis."""
    return executor.compile(make_eval_step(network), num_shared=2)


@functools.cache
def make_finite(executor: Executor) -> Callable[..., jax.Array]:
    """Returns the compiled program `finite(params, batch_stats) -> [trials] bool`: whether all values are finite."""
    return executor.compile(is_finite, num_shared=0)


@functools.cache
def make_merge(executor: Executor) -> Callable[..., Flat]:
    """Returns the compiled program `merged(params, scale, frozen) -> params`: LoRA factors merged into kernels."""

    def merged(params: Flat, scale: jax.Array, frozen: Flat) -> Flat:
        return merge(params, frozen, scale)

    return executor.compile(merged, num_shared=1)
