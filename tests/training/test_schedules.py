"""Schedules by hand and against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.training.schedules import Schedule, make_schedule


def factors(schedule, **numbers):
    rate = make_schedule(schedule, **numbers)
    return [float(rate(jnp.int32(step))) for step in range(schedule.num_steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("constant", 4), [1, 1, 1, 1]),
        (Schedule("cosine", 4), [1, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2]),
        (Schedule("linear", 4), [1, 0.75, 0.5, 0.25]),
        (Schedule("linear", 5, warmup_steps=1), [0.5, 1, 0.75, 0.5, 0.25]),
        (Schedule("step", 6, decay_steps=(2, 4)), [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Schedule("constant", 5, warmup_steps=3), [0.25, 0.5, 0.75, 1, 1]),
        (Schedule("step", 6, warmup_steps=1, decay_steps=(3, 3)), [0.5, 1, 1, 0.01, 0.01, 0.01]),
        (Schedule("cosine", 4, warmup_steps=2), [1 / 3, 2 / 3, 1, 0.5]),
        (Schedule("onecycle", 1), [1 / 25]),
        (Schedule("onecycle", 4, warmup_steps=2), [0.04, 0.52, 1, (1 + 4e-6) / 2]),
    ],
    ids=lambda value: value.shape if isinstance(value, Schedule) else "",
)
def test_schedules_by_hand(schedule, expected):
    np.testing.assert_allclose(factors(schedule), expected, rtol=1e-6)


@pytest.mark.parametrize("num_steps", [10, 57])
def test_one_cycle_agrees_with_optax(num_steps):
    optax_schedule = optax.cosine_onecycle_schedule(num_steps, 1.0)
    with jax.numpy_dtype_promotion("standard"):
        expected = [float(optax_schedule(step)) for step in range(num_steps)]
    np.testing.assert_allclose(factors(Schedule("onecycle", num_steps)), expected, rtol=1e-5, atol=1e-7)


def test_range_grows_by_a_constant_factor_per_step():
    range_factors = factors(Schedule("range", 7), decay_factor=1e-6)
    np.testing.assert_allclose(range_factors, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1], rtol=1e-5)
