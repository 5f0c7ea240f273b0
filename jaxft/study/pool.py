"""The worker processes of a study, and a worker's share of its work."""

from jaxft import config as cfg
from jaxft.core import events
from jaxft.core.errors import UserError
from jaxft.ops import convolution
from jaxft.store.records import Store
from jaxft.study.candidates import num_workers
from jaxft.study.convolutions import check_convolution
from jaxft.study.jobs import chunk_jobs, in_order_of, source_jobs
from jaxft.study.planned import Plan
from jaxft.study.services import Services
from jaxft.study.work import Work
from jaxft.study.workers import Workers


class Pool:
    """The worker processes of a study, begun when they are first needed."""

    def __init__(self, plan: Plan, store: Store, debug: bool):
        self.plan, self.store, self.debug = plan, store, debug
        self.size = num_workers(plan.study.execution, len(plan.trials))
        self._workers: Workers | None = None

    @property
    def workers(self) -> Workers:
        """Returns them."""
        if self._workers is None:
            study = cfg.to_dict(self.plan.study)
            self._workers = Workers(study, self.store.workdir, self.size, self.debug)
        return self._workers

    def run(self, services: Services, shard: tuple[int, int]) -> None:
        """Lets them do their share of the work, and tells how it goes."""
        for event in self.workers.broadcast({"run": shard}):
            match event:
                case events.WorkerFailed():
                    raise UserError(event.message)
                case events.WorkerDone():
                    services.clock.add(event.seconds_by_activity, event.num_compiled)
                case _:
                    services.emit(event)

    def close(self) -> None:
        """Lets them end."""
        if self._workers is not None:
            self._workers.close()


def run_workers_share(work: Work, shard: tuple[int, int], worker: tuple[int, int]) -> None:
    """Does, as `worker` (i, n) of n processes, what of a plan's work is theirs: sources, then chunks."""
    plan, store = work.plan, work.store
    execution = plan.study.execution
    with convolution.use(execution.cpu_convolution):
        check_convolution(store, is_worker=True)
        chunks = [job for group in plan.groups for job in chunk_jobs(group, store)]
        worker_jobs = [job for job in chunks[shard[0] :: shard[1]] if job.executor.in_workers]
        ordered = in_order_of(worker, worker_jobs)
        work.run([*source_jobs(plan, store), *ordered])
