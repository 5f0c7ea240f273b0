"""Graceful shutdown: long loops call `check()` between steps, save a checkpoint and exit."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

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

    A thread waits for the signal, because Python runs a signal handler only after the call in the main thread returns.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    has_ended = threading.Event()

    def watch() -> None:
        while numbers := os.read(reader, 64):  # empty when the writer is closed
            if signal.SIGTERM in numbers:
                _requested.set()
                if not has_ended.wait(GRACE_SECONDS):
                    os._exit(TERMINATED)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        has_ended.set()
        signal.set_wakeup_fd(wakeup_before)
        signal.signal(signal.SIGTERM, before)
        os.close(writer)
        watcher.join()
        os.close(reader)
        _requested.clear()
