"""The worker processes of a study, and the jobs of one worker."""

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
        for event in self.workers.broadcast({"run": shard}):
            match event:
                case events.WorkerFailed():
                    raise UserError(event.message)
                case events.WorkerDone():
                    services.clock.add(event.seconds_by_activity, event.num_compiled)
                case _:
                    services.emit(event)

    def close(self) -> None:
        """Stops the workers, if they were started."""
        if self._workers is not None:
            self._workers.close()


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
