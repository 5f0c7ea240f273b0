"""Runs the missing jobs of a plan: sources, then trials, then the analyses of all trials."""

import contextlib

from jaxft.core import events
from jaxft.ops import convolution
from jaxft.store.records import Store
from jaxft.study.analyses.run import run_analyses
from jaxft.study.chooser import Chooser
from jaxft.study.final_weights import drop_weights
from jaxft.study.jobs import assign_chunks, chunk_jobs, source_jobs
from jaxft.study.pairs import measure_pairs
from jaxft.study.planned import Plan
from jaxft.study.pool import Pool
from jaxft.study.services import Services
from jaxft.study.stored_splits import set_aside_damaged_splits, write_splits
from jaxft.study.stored_weights import set_aside_damaged_weights
from jaxft.study.work import Work, record_failure


def run_plan(
    plan: Plan,
    store: Store,
    services: Services,
    shard: tuple[int, int] = (0, 1),
    debug: bool = False,
) -> int:
    """Runs the trials that the store lacks, and returns the number of failed trials.

    Sources come first, then groups in the order of the plan. If a trial or its source fails, the failure is recorded
    and the other trials continue. Other processes may run the same plan in the same store: each job runs once.

    Args:
      plan: the plan.
      store: the work directory.
      services: feature cache, listener and clock.
      shard: (i, n): run only every n-th chunk, starting with chunk i, counted from 0.
      debug: whether an error in a trial is raised instead of recorded.

    Raises:
      UserError: this process uses another convolution library than the study, or an executor cannot run here.
      jaxft.core.interrupts.Stopped: the process received a signal to stop; the state is saved.
    """
    execution = plan.study.execution
    for digest in (*(trial.digest for trial in plan.trials), *(source.digest for source in plan.sources)):
        store.drop_failure(digest)
    emit = services.emit
    set_aside_damaged_weights(plan, store, emit)
    set_aside_damaged_splits(store, emit)
    work = Work(plan, store, services, debug)
    with convolution.use(execution.cpu_convolution), contextlib.closing(Pool(plan, store, debug)) as pool:
        sources = source_jobs(plan, store)
        chooser = Chooser(plan, store, emit)
        for group in plan.groups:
            assign_chunks(group, store, execution.executor, chooser.choose)
        chunks = [job for group in plan.groups for job in chunk_jobs(group, store)]
        chunks = [job for job in chunks[shard[0] :: shard[1]] if job.missing(store)]
        num_missing = sum(len(job.missing(store)) for job in chunks)
        total_epochs = sum(job.num_epochs(store) for job in (*sources, *chunks))
        emit(events.StudyStarted(total_epochs, len(plan.trials), len(plan.trials) - num_missing))
        worker_jobs = [job for job in chunks if job.executor.in_workers]
        if len(sources) < pool.size or not worker_jobs:  # a source trains faster with all cores
            work.run(sources)
        if worker_jobs:
            pool.run(services, shard)
            for job in worker_jobs:  # only jobs of killed workers are unfinished
                if unfinished_trials := job.missing(store):
                    codes = ", ".join(map(str, pool.workers.exit_codes()))
                    reason = f"its worker process died (exit codes: {codes}); a possible cause is too little memory"
                    record_failure(job, unfinished_trials, reason, "", store)
                    emit(events.TrialsFailed("trials", tuple(trial.digest for trial in unfinished_trials), reason))
        work.run([*sources, *(job for job in chunks if job not in worker_jobs)])
    drop_weights(plan, store, plan.trials)
    write_splits(plan, store)
    unfinished = [trial for trial in plan.trials if not store.has("trials", trial.digest)]
    if not unfinished:
        measure_pairs(plan, store, emit)
        with convolution.use(execution.cpu_convolution):
            run_analyses(work)
        store.drop_checkpoints()
    return sum(store.has("failures", trial.digest) for trial in unfinished)
