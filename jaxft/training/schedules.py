"""Shapes of the learning rate over a phase, by name; the peak is 1."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.core.registries import SCHEDULES

ONE_CYCLE_RISE = 0.3  # fraction of a phase after which 'onecycle' is at its peak, if there is no warmup
ONE_CYCLE_START = 1 / 25  # of the peak; it ends at a ten thousandth of that

Shape = Callable[[jax.Array], jax.Array]  # from step to share of the peak rate, float32


@dataclass(frozen=True)
class Schedule:
    """What is static in a schedule.

    Attributes:
      shape: its name in SCHEDULES.
      num_steps: length of the phase.
      warmup_steps: steps over which the rate rises to its peak.
      decay_steps: steps at which the shape 'step' lowers the rate; by how much is a traced number.
    """

    shape: str
    num_steps: int
    warmup_steps: int = 0
    decay_steps: tuple[int, ...] = ()

    @property
    def steps_after_warmup(self) -> int:
        """Returns the number of steps after the warmup, 1 at least."""
        return max(self.num_steps - self.warmup_steps, 1)


def make_schedule(schedule: Schedule, decay_factor: jax.Array | float = 0.1) -> Shape:
    """Returns the function from step (an integer array) to share of the peak rate."""
    shape = SCHEDULES[schedule.shape].value(schedule, decay_factor)
    return lambda step: shape(jnp.asarray(step, jnp.float32))


def with_warmup(schedule: Schedule, main: Shape) -> Shape:
    """Returns `main` after a linear warmup, whose first step has 1 / (warmup + 1) of the peak."""
    warmup = schedule.warmup_steps
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(1 / (warmup + 1), 1.0, warmup), main], [warmup])


# A schedule is a function of (schedule, decay_factor) that returns the share of the peak as a function of the step.


def constant(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns the peak at every step after the warmup."""
    return with_warmup(schedule, optax.constant_schedule(1.0))


def cosine(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns half a cosine (Loshchilov & Hutter 2017, without restarts), which would be zero a step after the last."""
    return with_warmup(schedule, optax.cosine_decay_schedule(1.0, schedule.steps_after_warmup))


def linear(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns a straight line down, which would be zero a step after the last."""
    return with_warmup(schedule, optax.linear_schedule(1.0, 0.0, schedule.steps_after_warmup))


def step(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns a share that is multiplied by `decay_factor` at each of `decay_steps`."""
    boundaries = np.asarray(schedule.decay_steps) - schedule.warmup_steps

    # optax's piecewise schedule bakes the factor into the program.
    def main(step: jax.Array) -> jax.Array:
        passed = (step >= jnp.asarray(boundaries, jnp.float32)).sum(dtype=jnp.float32)
        return jnp.asarray(decay_factor, jnp.float32) ** passed

    return with_warmup(schedule, main)


def one_cycle(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns a rise over the warmup and a fall after it, by cosines.

    Smith & Topin 2018, with the shape and the constants that fast.ai gave it; momentum stays as it is.
    """
    num_steps, start, end = schedule.num_steps, ONE_CYCLE_START, ONE_CYCLE_START * 1e-4
    peak = schedule.warmup_steps or max(int(ONE_CYCLE_RISE * num_steps), 1)

    def share(step: jax.Array) -> jax.Array:
        risen = (1 - jnp.cos(jnp.pi * jnp.clip(step / peak, 0, 1))) / 2
        fallen = (1 - jnp.cos(jnp.pi * jnp.clip((step - peak) / max(num_steps - peak, 1), 0, 1))) / 2
        return jnp.where(step < peak, start + (1 - start) * risen, 1 + (end - 1) * fallen)

    return share


def rate_range(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns a growth from `decay_factor` to 1, by one factor from step to step.

    The learning-rate range test of Smith 2017, section 3.3, there linear.
    """
    return lambda step: jnp.asarray(decay_factor, jnp.float32) ** (1 - step / max(schedule.num_steps - 1, 1))


SCHEDULES.register("constant", constant, help="the peak at every step")
SCHEDULES.register("cosine", cosine, help="half a cosine down to zero")
SCHEDULES.register("linear", linear, help="a straight line down to zero")
SCHEDULES.register("step", step, help="lowered by decay_factor at each of the decay steps")
SCHEDULES.register("onecycle", one_cycle, help="rises to the peak over the warmup, then falls")
SCHEDULES.register("range", rate_range, help="grows by one factor from step to step, for the range test")
