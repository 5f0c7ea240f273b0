"""A worker process of a study (`jaxft.study.workers`): reads messages from standard input, and writes events.

This is not a command for users; `jaxft study` starts it. Each message is one line of JSON. The first one describes the
study and the worker, and each of the others describes a share of the work.
"""

import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft.core.events import Listener


def main() -> None:
    """Runs the work that standard input describes, until standard input ends."""
    # Other code that prints to standard output must not write into the stream of events.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # A terminal sends SIGINT to all processes; the main process ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assignment = json.loads(sys.stdin.readline())
    if assignment["core"] is not None:
        os.sched_setaffinity(0, {assignment["core"]})  # before JAX counts the cores

    from jaxft.core import interrupts
    from jaxft.tracking.pipe import PipeWriter

    lines: list[str] = []
    line_added = threading.Condition()

    def read_lines() -> None:
        for line in sys.stdin:
            with line_added:
                lines.append(line)
                line_added.notify()
        os._exit(0)  # the main process has ended; files on disk are complete at any time

    threading.Thread(target=read_lines, daemon=True).start()
    try:
        with interrupts.on_signal():
            run_messages(assignment, PipeWriter(out), line_added, lines)
    except interrupts.Stopped:
        sys.exit(interrupts.TERMINATED)


def run_messages(
    assignment: dict[str, Any], emit: "Listener", line_added: threading.Condition, lines: list[str]
) -> None:
    """Plans the study, then runs the share of the work in each message. Does not return.

    Args:
      assignment: the first message: 'study', 'workdir', 'debug', 'worker' (i, n) and 'core'.
      emit: receives the events.
      line_added: the lock of `lines`, notified after each new line.
      lines: messages that have not been read, oldest first.
    """
    from jaxft import config as cfg
    from jaxft.core import interrupts
    from jaxft.core.compile_cache import keep_compiled
    from jaxft.core.errors import UserError
    from jaxft.core.events import WorkerDone, WorkerFailed
    from jaxft.store.records import Store
    from jaxft.study.plan import make_plan
    from jaxft.study.pool import run_workers_share
    from jaxft.study.services import make_services
    from jaxft.study.work import Work

    keep_compiled()
    plan = make_plan(cfg.from_dict(cfg.Study, assignment["study"]))
    store = Store(assignment["workdir"])
    services = make_services(plan.study.execution, emit)
    work = Work(plan, store, services, assignment["debug"])
    while True:
        with line_added:
            while not lines:
                interrupts.check()
                line_added.wait(0.2)
            message = json.loads(lines.pop(0))
        try:
            run_workers_share(work, message["run"], assignment["worker"])
        except UserError as error:
            emit(WorkerFailed(str(error)))
        clock = services.clock
        emit(WorkerDone(clock.seconds, clock.num_compiled))
