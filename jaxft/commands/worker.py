"""A worker process of a study (`jaxft.study.workers`): reads from standard input what to do, and says how it goes.

It is no command of its own; `jaxft study` begins it.
"""

import json
import os
import signal
import sys
import threading
from typing import Any, TextIO


class Telling:
    """A study's progress, told to the process that began this one."""

    def __init__(self, out: TextIO):
        from jaxft.core.timing import Clock

        self.out, self.clock = out, Clock()

    def tell(self, **message: Any) -> None:
        """Says a message."""
        self.out.write(json.dumps(message) + "\n")
        self.out.flush()

    def begin(self, total_epochs: int, total_trials: int, trials_done: int) -> None:
        """Says nothing: the other process knows."""

    def epoch(self, phase: str, trials: int, line: str) -> None:
        """Says that `trials` trials ended an epoch."""
        self.tell(epoch=[phase, trials, line])

    def trials(self, count: int) -> None:
        """Says that `count` trials are stored."""
        self.tell(trials=[count])

    def elsewhere(self, epochs: int, trials: int) -> None:
        """Says nothing: whoever did it has said so."""

    def note(self, line: str) -> None:
        """Says how far something between two epochs is."""
        self.tell(note=[line])

    def say(self, line: str) -> None:
        """Says a line that stays."""
        self.tell(say=[line])


def main() -> None:
    """Does what standard input says, line by line, until it ends."""
    # Whatever prints to standard output must not be taken for a message.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all; the other process says what to do
    first = json.loads(sys.stdin.readline())
    if first["core"] is not None:
        os.sched_setaffinity(0, {first["core"]})  # before JAX counts the cores

    from jaxft.core import interrupts

    lines: list[str] = []
    came = threading.Condition()

    def listen() -> None:
        for line in sys.stdin:
            with came:
                lines.append(line)
                came.notify()
        os._exit(0)  # the other process has ended, and all that is on disk is whole

    threading.Thread(target=listen, daemon=True).start()
    try:
        with interrupts.on_signal():
            work(first, Telling(out), came, lines)
    except interrupts.Stopped:
        sys.exit(interrupts.TERMINATED)


def work(first: dict[str, Any], progress: Telling, came: threading.Condition, lines: list[str]) -> None:
    """Plans the study, then does what the lines say."""
    from jaxft import config as cfg
    from jaxft.commands.study import keep_compiled
    from jaxft.core import interrupts
    from jaxft.core.errors import UserError
    from jaxft.store.records import Store
    from jaxft.study.plan import make_plan
    from jaxft.study.run import run_workers_share

    keep_compiled()
    plan = make_plan(cfg.from_dict(cfg.Study, first["study"]))
    store = Store(first["workdir"])
    while True:
        with came:
            while not lines:
                interrupts.check()
                came.wait(0.2)
            message = json.loads(lines.pop(0))
        try:
            run_workers_share(plan, store, progress, first["debug"], message["run"], first["worker"])
        except UserError as error:
            progress.tell(error=str(error))
        progress.tell(done=True, seconds=progress.clock.seconds, num_compiled=progress.clock.num_compiled)
