"""Shapes of a learning rate over a phase, whose peak is 1."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

ONE_CYCLE_RISE = 0.3  # share of a phase after which 'onecycle' is at its peak, where no warm-up says when
ONE_CYCLE_START = 1 / 25  # of the peak; it ends at a ten thousandth of that


@dataclass(frozen=True)
class Schedule:
    """The shape of a learning rate over a phase, whose peak is 1; how far 'step' lowers it is a number (`HParams`)."""

    shape: str
    num_steps: int
    warmup_steps: int = 0
    decay_steps: tuple[int, ...] = ()


def make_schedule(schedule: Schedule, decay_factor: jax.Array | float = 0.1) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from step (an integer array) to share of the peak rate.

    A warm-up rises linearly to 1 at its end, and the rest has the shape: 'constant'; 'cosine' (Loshchilov & Hutter
    2017, without restarts) and 'linear', which would be zero a step after the last; 'step', times `decay_factor` at
    each of `decay_steps`. 'onecycle' rises over the warm-up and falls after it by cosines (Smith & Topin 2018, with the
    shape and the constants that fast.ai gave it; momentum stays as it is). 'range' grows from `decay_factor` to 1 by
    one factor from step to step (Smith 2017, section 3.3, there linearly).
    """
    shape = _make_shape(schedule, decay_factor)
    return lambda step: shape(jnp.asarray(step, jnp.float32))


def _make_shape(schedule: Schedule, decay_factor: jax.Array | float) -> Callable[[jax.Array], jax.Array]:
    n, warmup = schedule.num_steps, schedule.warmup_steps
    if schedule.shape == "range":
        return lambda step: jnp.asarray(decay_factor, jnp.float32) ** (1 - step / max(n - 1, 1))
    if schedule.shape == "onecycle":
        return _one_cycle(n, warmup or max(int(ONE_CYCLE_RISE * n), 1))
    main_steps = max(n - warmup, 1)
    if schedule.shape == "constant":
        main = optax.constant_schedule(1.0)
    elif schedule.shape == "cosine":
        main = optax.cosine_decay_schedule(1.0, main_steps)
    elif schedule.shape == "linear":
        main = optax.linear_schedule(1.0, 0.0, main_steps)
    else:
        boundaries = np.asarray(schedule.decay_steps) - warmup

        # optax's piecewise schedule bakes the factor into the program.
        def main(step: jax.Array) -> jax.Array:
            return jnp.asarray(decay_factor, jnp.float32) ** (step >= jnp.asarray(boundaries, jnp.float32)).sum(
                dtype=jnp.float32
            )

    if not warmup:
        return main
    rise = optax.linear_schedule(1 / (warmup + 1), 1.0, warmup)
    return optax.join_schedules([rise, main], [warmup])


def _one_cycle(num_steps: int, peak: int) -> Callable[[jax.Array], jax.Array]:
    start, end = ONE_CYCLE_START, ONE_CYCLE_START * 1e-4

    def share(step: jax.Array) -> jax.Array:
        risen = (1 - jnp.cos(jnp.pi * jnp.clip(step / peak, 0, 1))) / 2
        fallen = (1 - jnp.cos(jnp.pi * jnp.clip((step - peak) / max(num_steps - peak, 1), 0, 1))) / 2
        return jnp.where(step < peak, start + (1 - start) * risen, 1 + (end - 1) * fallen)

    return share
