"""Runs what of a plan the store does not hold yet: sources, then trials, then what is measured over all of them."""

import contextlib

from jaxft.core import events
from jaxft.ops import convolution
from jaxft.store.records import Store
from jaxft.study.chooser import Chooser
from jaxft.study.final_weights import drop_weights
from jaxft.study.jobs import assign_chunks, chunk_jobs, source_jobs
from jaxft.study.pairs import measure_pairs
from jaxft.study.planned import Plan
from jaxft.study.pool import Pool
from jaxft.study.services import Services
from jaxft.study.work import Work, record_failure


def run_plan(
    plan: Plan,
    store: Store,
    services: Services,
    shard: tuple[int, int] = (0, 1),
    debug: bool = False,
) -> int:
    """Runs what the store does not hold, and returns how many trials failed.

    Sources come first, then groups in the plan's order. A trial that fails, or whose source does, is recorded and the
    others go on. Other processes may run the same plan in the same store: each piece of work is done by one of them.
    Of `shard` (i, n) it is every n-th chunk from the i-th on, counted from 0.

    Raises `jaxft.core.interrupts.Stopped` where the process was told to end.
    """
    execution = plan.study.execution
    for digest in (*(trial.digest for trial in plan.trials), *(source.digest for source in plan.sources)):
        store.drop_failure(digest)
    emit = services.emit
    work = Work(plan, store, services, debug)
    with convolution.use(execution.cpu_convolution), contextlib.closing(Pool(plan, store, debug)) as pool:
        sources = source_jobs(plan, store)
        chooser = Chooser(plan, store, emit)
        for group in plan.groups:
            assign_chunks(group, store, execution.executor, chooser.choose)
        chunks = [job for group in plan.groups for job in chunk_jobs(group, store)]
        chunks = [job for job in chunks[shard[0] :: shard[1]] if job.missing(store)]
        missing = sum(len(job.missing(store)) for job in chunks)
        total = sum(job.num_epochs(store) for job in (*sources, *chunks))
        emit(events.StudyStarted(total, len(plan.trials), len(plan.trials) - missing))
        by_workers = [job for job in chunks if job.executor.in_workers]
        if len(sources) < pool.size or not by_workers:  # each is trained the faster with all cores
            work.run(sources)
        if by_workers:
            pool.run(services, shard)
            for job in by_workers:  # each is over, but for what a worker was at that was killed
                if lost := job.missing(store):
                    died = f"its process ended with code {pool.workers.ended()}, perhaps for want of memory"
                    record_failure(job, lost, died, "", store)
                    emit(events.TrialsFailed("trials", tuple(trial.digest for trial in lost), died))
        work.run([*sources, *(job for job in chunks if job not in by_workers)])
    drop_weights(plan, store, plan.trials)
    unfinished = [trial for trial in plan.trials if not store.has("trials", trial.digest)]
    if not unfinished:
        measure_pairs(plan, store, emit)
        store.drop_checkpoints()
    return sum(store.has("failures", trial.digest) for trial in unfinished)
