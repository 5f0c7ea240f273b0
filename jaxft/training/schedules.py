"""Learning-rate schedules, by name, as functions from the step to a factor of the peak learning rate."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.core.registries import SCHEDULES

ONE_CYCLE_RISE = 0.3  # fraction of the steps that come before the peak of 'onecycle', if warmup_steps is 0
ONE_CYCLE_START = 1 / 25  # first factor of 'onecycle'; the last factor is 1e-4 times the first

Shape = Callable[[jax.Array], jax.Array]  # from the step to the factor of the peak learning rate, float32


@dataclass(frozen=True)
class Schedule:
    """The static part of a schedule.

    Attributes:
      shape: name in SCHEDULES.
      num_steps: number of steps.
      warmup_steps: steps over which the learning rate rises to its peak.
      decay_steps: steps at which the shape 'step' multiplies the learning rate by the decay factor, a traced number.
    """

    shape: str
    num_steps: int
    warmup_steps: int = 0
    decay_steps: tuple[int, ...] = ()

    @property
    def steps_after_warmup(self) -> int:
        """Returns the number of steps after the warmup, at least 1."""
        return max(self.num_steps - self.warmup_steps, 1)


def make_schedule(schedule: Schedule, decay_factor: jax.Array | float = 0.1) -> Shape:
    """Returns the function from the step, an integer scalar, to the factor of the peak learning rate, a float32 scalar.

    The shapes 'step' and 'range' use `decay_factor`, a scalar.
    """
    shape = SCHEDULES[schedule.shape].value(schedule, decay_factor)
    return lambda step: shape(jnp.asarray(step, jnp.float32))


def with_warmup(schedule: Schedule, main: Shape) -> Shape:
    """Returns `main` after a linear warmup of w steps; the first step has the factor 1 / (w + 1)."""
    warmup = schedule.warmup_steps
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(1 / (warmup + 1), 1.0, warmup), main], [warmup])


# A registered schedule is a function of (schedule, decay_factor: scalar) that returns a `Shape`.


def constant(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns the constant shape, which is 1 after the warmup. It ignores `decay_factor`, a scalar."""
    return with_warmup(schedule, optax.constant_schedule(1.0))


def cosine(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns the cosine shape (Loshchilov & Hutter 2017, without restarts); it reaches 0 one step after the last step.

    It ignores `decay_factor`, a scalar.
    """
    return with_warmup(schedule, optax.cosine_decay_schedule(1.0, schedule.steps_after_warmup))


def linear(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns the linear shape; it reaches 0 one step after the last step. It ignores `decay_factor`, a scalar."""
    return with_warmup(schedule, optax.linear_schedule(1.0, 0.0, schedule.steps_after_warmup))


def step(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns the step shape: 1 after the warmup, multiplied by `decay_factor`, a scalar, at each of `decay_steps`."""
    boundaries = np.asarray(schedule.decay_steps) - schedule.warmup_steps

    # The piecewise schedule of optax would make the factor a constant of the program.
    def main(step: jax.Array) -> jax.Array:
        num_decays = (step >= jnp.asarray(boundaries, jnp.float32)).sum(dtype=jnp.float32)
        return jnp.asarray(decay_factor, jnp.float32) ** num_decays

    return with_warmup(schedule, main)


def one_cycle(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns the one-cycle shape: a cosine rise during the warmup, then a cosine fall (Smith & Topin 2018).

    Shape and constants are those of fast.ai. The momentum is constant. It ignores `decay_factor`, a scalar.
    """
    num_steps, start, end = schedule.num_steps, ONE_CYCLE_START, ONE_CYCLE_START * 1e-4
    peak = schedule.warmup_steps or max(int(ONE_CYCLE_RISE * num_steps), 1)

    def factor(step: jax.Array) -> jax.Array:
        rise = (1 - jnp.cos(jnp.pi * jnp.clip(step / peak, 0, 1))) / 2
        fall = (1 - jnp.cos(jnp.pi * jnp.clip((step - peak) / max(num_steps - peak, 1), 0, 1))) / 2
        return jnp.where(step < peak, start + (1 - start) * rise, 1 + (end - 1) * fall)

    return factor


def rate_range(schedule: Schedule, decay_factor: jax.Array | float) -> Shape:
    """Returns the shape that grows exponentially from `decay_factor`, a scalar, to 1.

    The learning-rate range test uses it (Smith 2017, section 3.3; in the paper, growth is linear).
    """
    return lambda step: jnp.asarray(decay_factor, jnp.float32) ** (1 - step / max(schedule.num_steps - 1, 1))


SCHEDULES.register("constant", constant, help="constant at the peak")
SCHEDULES.register("cosine", cosine, help="cosine decay to zero")
SCHEDULES.register("linear", linear, help="linear decay to zero")
SCHEDULES.register("step", step, help="multiplied by decay_factor at each decay step")
SCHEDULES.register("onecycle", one_cycle, help="rises to the peak during the warmup, then falls")
SCHEDULES.register("range", rate_range, help="grows exponentially to the peak, for a learning-rate range test")
