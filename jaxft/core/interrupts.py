"""Graceful shutdown: long loops call `check()` between steps, save a checkpoint and exit."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # the exit code
GRACE_SECONDS = 9.0  # to save a checkpoint; cluster managers kill processes that take longer, often after 30 s
_requested = threading.Event()


class Stopped(BaseException):
    """The process was asked to exit, and its state is saved."""


def check() -> None:
    """Raises `Stopped` if the process was asked to exit."""
    if _requested.is_set():
        raise Stopped


@contextlib.contextmanager
def on_signal() -> Iterator[None]:
    """Makes `check` raise `Stopped` after a SIGTERM, inside the context.

    The process exits after `GRACE_SECONDS` if code does not call `check` in time, such as a compiler. This is safe
    because files on disk are complete at any time.
    """
    timer = threading.Timer(GRACE_SECONDS, os._exit, (TERMINATED,))
    timer.daemon = True

    def request(number: int, frame: FrameType | None) -> None:
        if not _requested.is_set():
            _requested.set()
            timer.start()

    before = signal.signal(signal.SIGTERM, request)
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
        _requested.clear()
