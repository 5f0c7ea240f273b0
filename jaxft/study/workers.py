"""Worker processes: each runs trials of one study on a core of its own, and tells this process its events.

Two processes with a thread each do more than one with two threads, because a step has parts that one thread does
alone. They share the work directory as any processes do. They are told what to do in lines of JSON, and answer with
events (`jaxft.core.events`), a line each.
"""

import contextlib
import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxft.core import interrupts
from jaxft.core.devices import child_command, core_numbers, fast_environment
from jaxft.core.events import Event, WorkerDone, from_json


class Workers:
    """Processes that know a study and wait to be told what to do. They end with this process, however it ends."""

    def __init__(self, study: Mapping[str, Any], workdir: Path, count: int, debug: bool = False):
        self.event_queue: queue.SimpleQueue[tuple[int, Event | None]] = queue.SimpleQueue()
        cores = core_numbers()
        self.processes: list[subprocess.Popen[str]] = []
        self.listeners: list[threading.Thread] = []
        for number in range(count):
            process = subprocess.Popen(
                child_command("jaxft.commands.worker", "main"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | fast_environment() | {"JAX_PLATFORMS": "cpu"} | ({} if cores else ONE_THREAD),
            )
            self.processes.append(process)
            listener = threading.Thread(target=self._listen, args=(number, process), daemon=True)
            listener.start()
            self.listeners.append(listener)
            core = cores[number % len(cores)] if cores else None
            assignment = {"worker": [number, count], "core": core}
            self._send(process, {"study": study, "workdir": str(workdir), "debug": debug} | assignment)

    def _listen(self, number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self.event_queue.put((number, from_json(line)))
        self.event_queue.put((number, None))

    def _send(self, process: subprocess.Popen[str], message: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        except BrokenPipeError:  # it has ended, which `broadcast` finds out
            pass

    def broadcast(self, message: Mapping[str, Any]) -> Iterator[Event]:
        """Tells every worker something, and yields their events until each has done it or has ended."""
        for process in self.processes:
            self._send(process, message)
        busy = {number for number, process in enumerate(self.processes) if process.poll() is None}
        while busy:
            interrupts.check()
            try:
                number, event = self.event_queue.get(timeout=0.2)
            except queue.Empty:
                continue
            if event is None or isinstance(event, WorkerDone):
                busy.discard(number)
            if event is not None:
                yield event

    def ended(self) -> list[int]:
        """Returns the exit codes of those that have ended; none should before `close`."""
        return [code for process in self.processes if (code := process.poll()) is not None]

    def close(self) -> None:
        """Lets the workers end; what they are at is kept."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(interrupts.GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # not before: who hears nothing any more ends at once
                process.stdin.close()
        for listener in self.listeners:
            listener.join()


# Where a process cannot be bound to a core.
ONE_THREAD = {
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
}
