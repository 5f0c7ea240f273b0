"""Being told to end: what is at work looks here between two pieces of it, keeps its state and leaves."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # the exit code
GRACE_SECONDS = 9.0  # for what is at work; cluster managers kill what takes longer, often after 30 s
_told = threading.Event()


class Stopped(BaseException):
    """The process was told to end, and what was at work is kept."""


def check() -> None:
    """Raises `Stopped` where the process was told to end."""
    if _told.is_set():
        raise Stopped


@contextlib.contextmanager
def on_signal() -> Iterator[None]:
    """Makes SIGTERM tell what is at work to end, while in the context.

    What does not look here in time, such as a compiler, is cut off: what is on disk is whole at any moment.
    """
    timer = threading.Timer(GRACE_SECONDS, os._exit, (TERMINATED,))
    timer.daemon = True

    def tell(number: int, frame: FrameType | None) -> None:
        if not _told.is_set():
            _told.set()
            timer.start()

    before = signal.signal(signal.SIGTERM, tell)
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
        _told.clear()
