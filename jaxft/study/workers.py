"""Worker processes: each runs trials of one study on one core and sends its events to the main process.

Two processes with one thread each are faster than one process with two threads, because some operations of a training
step use only one thread. The workers share the work directory like any other processes. They read messages as lines of
JSON and answer with events (`jaxft.core.events`), one per line.
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
    """Worker processes of a study, which wait for messages. They end when this process ends for any reason."""

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
        except BrokenPipeError:  # the worker has ended; `broadcast` handles this
            pass

    def broadcast(self, message: Mapping[str, Any]) -> Iterator[Event]:
        """Sends a message to all workers, and yields their events until each has finished it or has ended.

        Raises:
          jaxft.core.interrupts.Stopped: this process received a signal to stop.
        """
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

    def exit_codes(self) -> list[int]:
        """Returns the exit codes of the workers that have ended; before `close`, these are failures."""
        return [code for process in self.processes if (code := process.poll()) is not None]

    def close(self) -> None:
        """Stops the workers by SIGTERM, so they save checkpoints; kills them after the grace period."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(interrupts.GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # only now: a worker without a pipe exits immediately
                process.stdin.close()
        for listener in self.listeners:
            listener.join()


# On systems where a process cannot be bound to a core.
ONE_THREAD = {
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
}
