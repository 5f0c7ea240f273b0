"""The event log: a file with one line of JSON per event."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from jaxft.core import events
from jaxft.core.events import Event

FILE = "events.jsonl"
SECONDS_BETWEEN = 10.0  # between two progress events of the same activity


class JsonLines:
    """A listener that appends each event to a file, with the time (seconds since 1970) and the process.

    One system call writes each line at the end of the file, so several processes can write to the same file. A killed
    process leaves at most one incomplete line, which `read_events` skips. Progress events of an activity are written
    every ten seconds, and at the end of the activity.
    """

    def __init__(self, path: Path):
        self.path = path
        self._process = f"{os.getpid()}@{socket.gethostname()}"
        self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._last: dict[tuple[type, str], float] = {}
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":  # the last writer was killed
            os.write(self._handle, b"\n")

    def __call__(self, event: Event) -> None:
        if isinstance(event, events.Advanced) and event.done < event.total and not self._is_due(event):
            return
        fields = {"time": round(time.time(), 3), "process": self._process, **event.to_dict()}
        os.write(self._handle, (json.dumps(fields) + "\n").encode())

    def _is_due(self, event: events.Advanced) -> bool:
        key, now = (type(event), event.of), time.monotonic()
        if now - self._last.get(key, -SECONDS_BETWEEN) < SECONDS_BETWEEN:
            return False
        self._last[key] = now
        return True

    def close(self) -> None:
        """Closes the file."""
        os.close(self._handle)


def read_events(path: Path) -> Iterator[tuple[float, Event]]:
    """Yields (seconds since 1970, event) for each line of a log, and skips lines that contain no known event."""
    for line in path.read_bytes().splitlines():
        try:
            fields = json.loads(line)
            event = float(fields["time"]), events.from_dict(fields)
        except (ValueError, KeyError, TypeError):
            continue
        yield event
