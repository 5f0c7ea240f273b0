"""The programs of a phase, compiled once for each phase and executor."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.study.executors import Executor
from jaxft.training.adapters import merge
from jaxft.training.evaluation import Evaluation, is_finite, make_eval_step, make_moments_step
from jaxft.training.hparams import HParams
from jaxft.training.phase import Evaluated, Phase
from jaxft.training.state import Flat, Frozen, State, init_state
from jaxft.training.step import make_train_step

MOST_STEPS = 256  # of a stretch on the device


@functools.cache
def make_init_states(phase: Phase) -> Callable[[Flat, Flat, HParams, jax.Array], State]:
    """Returns `init(params, batch_stats, hparams, keys) -> state` at the start of a phase, over the trial axis."""
    return jax.jit(jax.vmap(functools.partial(init_state, phase)))


@functools.cache
def make_run_steps(phase: Phase, executor: Executor) -> Callable[..., tuple[State, list[jax.Array]]]:
    """Returns `run_steps(count, state, hparams, labels, indices, frozen, images) -> (state, metrics)`.

    The state is given up. The metrics are arrays [trials, steps, 2], of `count` steps or more one after another: the
    loss and accuracy of each. Nothing is waited for.
    """
    run = make_steps(phase, executor)

    def run_one_by_one(count: int, state: State, *rest: Any) -> tuple[State, list[jax.Array]]:
        all_metrics = []
        for _ in range(count):
            state, metrics = run(state, *rest)
            all_metrics.append(metrics)
        return state, all_metrics

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
def make_moments(network: Evaluated, executor: Executor) -> Callable[..., Flat]:
    """Returns the compiled `moments_step` of a network, over the trial axis."""
    return executor.compile(make_moments_step(network), num_shared=2)


@functools.cache
def make_eval(network: Evaluated, executor: Executor) -> Callable[..., Evaluation]:
    """Returns the compiled `eval_step` of a network, over the trial axis."""
    return executor.compile(make_eval_step(network), num_shared=2)


@functools.cache
def make_finite(executor: Executor) -> Callable[..., jax.Array]:
    """Returns the program that tells of each trial whether its variables are finite: [trials]."""
    return executor.compile(is_finite, num_shared=0)


@functools.cache
def make_merge(executor: Executor) -> Callable[..., Flat]:
    """Returns `merged(params, scale, frozen) -> params`: low-rank adapters merged into their kernels."""

    def merged(params: Flat, scale: jax.Array, frozen: Flat) -> Flat:
        return merge(params, frozen, scale)

    return executor.compile(merged, num_shared=1)
