"""A worker process of a study (`jaxft.study.workers`): reads from standard input what to do, and writes events.

It is no command of its own; `jaxft study` begins it.
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
    """Does what standard input says, line by line, until it ends."""
    # Whatever prints to standard output must not be taken for a message.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all; the other process says what to do
    first = json.loads(sys.stdin.readline())
    if first["core"] is not None:
        os.sched_setaffinity(0, {first["core"]})  # before JAX counts the cores

    from jaxft.core import interrupts
    from jaxft.tracking.pipe import PipeWriter

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
            do_work(first, PipeWriter(out), came, lines)
    except interrupts.Stopped:
        sys.exit(interrupts.TERMINATED)


def do_work(first: dict[str, Any], emit: "Listener", came: threading.Condition, lines: list[str]) -> None:
    """Plans the study, then does what the lines say."""
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
    plan = make_plan(cfg.from_dict(cfg.Study, first["study"]))
    store = Store(first["workdir"])
    services = make_services(plan.study.execution, emit)
    work = Work(plan, store, services, first["debug"])
    while True:
        with came:
            while not lines:
                interrupts.check()
                came.wait(0.2)
            message = json.loads(lines.pop(0))
        try:
            run_workers_share(work, message["run"], first["worker"])
        except UserError as error:
            emit(WorkerFailed(str(error)))
        clock = services.clock
        emit(WorkerDone(clock.seconds, clock.num_compiled))
