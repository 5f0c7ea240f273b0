"""The worker processes of a study, and the jobs of one worker."""

import time

from jaxft import config as cfg
from jaxft.core import events
from jaxft.core.errors import UserError
from jaxft.ops import convolution
from jaxft.store.records import Store
from jaxft.study.candidates import num_workers
from jaxft.study.convolutions import check_convolution
from jaxft.study.jobs import chunk_jobs, ordered_for_worker, source_jobs
from jaxft.study.planned import Plan
from jaxft.study.services import Services
from jaxft.study.work import Work
from jaxft.study.workers import Workers

HOLD_SECONDS = 10.0  # far longer than an event takes from a worker


class Pool:
    """The worker processes of a study, started when they are first needed."""

    def __init__(self, plan: Plan, store: Store, debug: bool):
        self.plan, self.store, self.debug = plan, store, debug
        self.size = num_workers(plan.study.execution, len(plan.trials))
        self._workers: Workers | None = None

    @property
    def workers(self) -> Workers:
        """Returns the worker processes."""
        if self._workers is None:
            study = cfg.to_dict(self.plan.study)
            self._workers = Workers(study, self.store.workdir, self.size, self.debug)
        return self._workers

    def run(self, services: Services, shard: tuple[int, int]) -> None:
        """Runs the worker jobs of shard (i, n) in the workers, and passes their events on.

        Raises:
          UserError: a worker failed with an error that stops the study.
        """
        reports = _Reports()
        for event in self.workers.broadcast({"run": shard}):
            for report in reports.due():
                services.emit(report)
            match event:
                case events.WorkDoneElsewhere():
                    reports.hold(event)
                case events.WorkerFailed():
                    raise UserError(event.message)
                case events.WorkerDone():
                    services.clock.add(event.seconds_by_activity, event.num_compiled)
                case _:
                    reports.note(event)
                    services.emit(event)
        for report in reports.due(0.0):
            services.emit(report)

    def close(self) -> None:
        """Stops the workers, if they were started."""
        if self._workers is not None:
            self._workers.close()


class _Reports:
    """Reports of workers that another process finished a trial. They are held back, as it may be a worker of the pool.

    Each worker goes through all jobs, so it also reports what the others have finished. The event of the worker that
    finished the trial may come later than the report.
    """

    def __init__(self) -> None:
        self.counted: set[str] = set()
        self.held: dict[str, tuple[float, events.WorkDoneElsewhere]] = {}

    def hold(self, report: events.WorkDoneElsewhere) -> None:
        """Keeps a report until it is due."""
        self.held.setdefault(report.trial, (time.monotonic(), report))

    def note(self, event: events.Event) -> None:
        """Notes which trials and sources a worker of the pool finished."""
        match event:
            case events.TrialFinished():
                self.counted.add(event.trial)
            case events.SourceTrained():
                self.counted.add(event.source)
            case events.TrialsFailed():
                self.counted.update(event.trials)

    def due(self, seconds: float = HOLD_SECONDS) -> list[events.WorkDoneElsewhere]:
        """Returns each report that is `seconds` old and not about a trial of this pool, once."""
        due = [trial for trial, (since, _) in self.held.items() if time.monotonic() - since >= seconds]
        reports = [self.held.pop(trial)[1] for trial in due]
        new = [report for report in reports if report.trial not in self.counted]
        self.counted.update(due)
        return new


def run_workers_share(work: Work, shard: tuple[int, int], worker: tuple[int, int]) -> None:
    """Runs jobs as `worker` (i, n) of n: sources that no other process trains, then the worker chunks of `shard`."""
    plan, store = work.plan, work.store
    execution = plan.study.execution
    with convolution.use(execution.cpu_convolution):
        check_convolution(store, is_worker=True)
        chunks = [job for group in plan.groups for job in chunk_jobs(group, store)]
        worker_jobs = [job for job in chunks[shard[0] :: shard[1]] if job.executor.in_workers]
        ordered = ordered_for_worker(worker, worker_jobs)
        work.run([*source_jobs(plan, store), *ordered])
