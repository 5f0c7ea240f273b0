"""Breakdown of the time of a run: seconds by activity, with compilation as a separate activity."""

import collections
import contextlib
import functools
import time
from collections.abc import Iterator, Mapping

from jaxft.core.events import Listener, Working, ignore


class Clock:
    """Sums seconds by activity. Nested activities and compilation are not counted for the outer activity.

    When the compilation of a program starts, `emit` gets an event.
    """

    def __init__(self, emit: Listener = ignore) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.num_compiled = 0
        self.emit = emit

    @contextlib.contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Adds the time inside the context to `activity`."""
        _listen()
        start = time.perf_counter()
        _open.append((self, [0.0]))
        try:
            yield
        finally:
            _, (nested_seconds,) = _open.pop()
            elapsed = time.perf_counter() - start
            self.seconds[activity] += elapsed - nested_seconds
            if _open:
                _open[-1][1][0] += elapsed

    def add(self, seconds: Mapping[str, float], num_compiled: int) -> None:
        """Adds the seconds by activity and the number of compiled programs of another process."""
        for activity, activity_seconds in seconds.items():
            self.seconds[activity] += activity_seconds
        self.num_compiled += num_compiled


_open: list[tuple[Clock, list[float]]] = []  # open activities, outermost first, each with its nested seconds


@functools.cache
def _listen() -> None:
    """Registers listeners for the compilations of XLA in this process."""
    from jax import monitoring

    def record_duration(event: str, duration_secs: float, **_: str | int) -> None:
        is_compiled = event.endswith("/backend_compile_duration")
        if _open and (is_compiled or event.endswith("/jaxpr_to_mlir_module_duration")):
            clock, nested = _open[-1]
            clock.seconds["compile"] += duration_secs
            clock.num_compiled += is_compiled
            nested[0] += duration_secs

    def announce(event: str, **_: str | int) -> None:
        if _open and event.endswith("/compile_requests_use_cache"):
            _open[-1][0].emit(Working("compiling"))

    monitoring.register_event_duration_secs_listener(record_duration)
    monitoring.register_event_listener(announce)
