"""The breakdown of time: nested activities and compilation are counted once."""

import time

import jax
import jax.numpy as jnp
import pytest

from jaxft.core.events import Working
from jaxft.core.text import duration
from jaxft.core.timing import Clock


def test_a_nested_activity_is_not_counted_twice():
    clock = Clock()
    with clock.measure("evaluate"):
        time.sleep(0.05)
        with clock.measure("data"):
            time.sleep(0.1)
    assert clock.seconds["data"] >= 0.1 and 0.05 <= clock.seconds["evaluate"] < 0.1


def test_compilation_is_counted_separately_and_emits_an_event_at_its_start():
    started = []
    clock = Clock(lambda event: started.append((event, clock.num_compiled)))
    x = jnp.arange(7.0)
    with clock.measure("train"):
        jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x) + 1.2345)(x).block_until_ready()
    assert clock.num_compiled == 1 and clock.seconds["compile"] > 0
    assert started == [(Working("compiling"), 0)]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1 h 30 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
