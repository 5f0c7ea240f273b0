"""Where the time goes: seconds by activity, compiling apart from what is compiled for."""

import collections
import contextlib
import functools
import time
from collections.abc import Iterator, Mapping

from jaxft.core.events import Listener, Working, ignore


class Clock:
    """Adds up seconds by activity; what is done within another activity, or compiled, is not counted in both.

    `emit` hears as the compilation of a program begins.
    """

    def __init__(self, emit: Listener = ignore) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.num_compiled = 0
        self.emit = emit

    @contextlib.contextmanager
    def of(self, activity: str) -> Iterator[None]:
        """Counts the time in the context for `activity`."""
        _listen()
        began = time.perf_counter()
        _open.append((self, [0.0]))
        try:
            yield
        finally:
            _, (apart,) = _open.pop()
            elapsed = time.perf_counter() - began
            self.seconds[activity] += elapsed - apart
            if _open:
                _open[-1][1][0] += elapsed

    def add(self, seconds: Mapping[str, float], num_compiled: int) -> None:
        """Adds what another process counted."""
        for activity, taken in seconds.items():
            self.seconds[activity] += taken
        self.num_compiled += num_compiled


_open: list[tuple[Clock, list[float]]] = []  # the activities within each other, and what of each is counted apart


@functools.cache
def _listen() -> None:
    """Begins to count what XLA compiles in this process."""
    from jax import monitoring

    def record_duration(event: str, duration_secs: float, **_: str | int) -> None:
        is_compiled = event.endswith("/backend_compile_duration")
        if _open and (is_compiled or event.endswith("/jaxpr_to_mlir_module_duration")):
            clock, apart = _open[-1]
            clock.seconds["compile"] += duration_secs
            clock.num_compiled += is_compiled
            apart[0] += duration_secs

    def begins(event: str, **_: str | int) -> None:
        if _open and event.endswith("/compile_requests_use_cache"):
            _open[-1][0].emit(Working("compiling"))

    monitoring.register_event_duration_secs_listener(record_duration)
    monitoring.register_event_listener(begins)
