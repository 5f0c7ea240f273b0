"""The jobs of one process; processes with the same work directory share the jobs of a study."""

import time
import traceback
from collections.abc import Sequence

from jaxft.core import events, interrupts
from jaxft.core.errors import UserError
from jaxft.core.text import plural
from jaxft.store.records import Store
from jaxft.study.device_memory import drop_compiled_programs, is_out_of_memory
from jaxft.study.jobs import Job, current_jobs, halve_chunks
from jaxft.study.pieces import WorkContext, run_job
from jaxft.study.planned import Plan, PlannedTrial
from jaxft.study.services import Services
from jaxft.study.trial_loader import TrialLoader

WAIT_SECONDS = 0.5


class Work:
    """Runs the jobs of a study that no other process runs.

    Attributes:
      plan: the study.
      store: its work directory.
      services: feature cache, listener and clock.
      debug: whether an error in a job is raised instead of recorded.
      emit: the event listener.
      loader: loads the initial arrays and images of trials.
    """

    def __init__(self, plan: Plan, store: Store, services: Services, debug: bool = False):
        self.plan, self.store, self.services, self.debug = plan, store, services, debug
        self.emit = services.emit
        self.loader = TrialLoader(store, services, plan.study.execution.device_data_bytes)
        self._context = WorkContext(plan, store, services, self.loader)

    def run(self, jobs: Sequence[Job]) -> None:
        """Runs the jobs that no other process runs, and returns when all jobs are finished.

        Raises:
          UserError: a job cannot run, for example because a weight file is unreadable.
          jaxft.core.interrupts.Stopped: the process received a signal to stop.
        """
        remaining = [(job, job.missing(self.store)) for job in jobs]
        while remaining:
            still_remaining = []
            for job, missing in remaining:
                if job.missing(self.store):
                    still_remaining += [(other, other.missing(self.store)) for other in self._attempt(job)]
                else:
                    for trial in missing:
                        self.emit(events.WorkDoneElsewhere(job.kind, trial.digest, trial.program.num_epochs))
            if [job for job, _ in still_remaining] == [job for job, _ in remaining]:
                interrupts.check()
                self.emit(events.Waiting(f"other processes, which run {plural(len(remaining), 'job')}"))
                time.sleep(WAIT_SECONDS)
            remaining = still_remaining

    def _attempt(self, job: Job) -> list[Job]:
        """Runs a job and returns the jobs that remain.

        This is the job itself if another process runs it or its source, or smaller jobs of the same trials if the job
        ran out of memory.
        """
        store, source = self.store, job.source
        if source is not None and not job.source_is_ready(store):
            if not store.has("failures", source.digest):
                return [job]
            self._fail(job, str((store.read("failures", source.digest) or {})["error"]))
            return []
        with store.claim(job.key, wait=False) as is_claimed:
            if not is_claimed:
                return [job]
            if job.group is not None and job.key not in (
                current := {smaller.key: smaller for smaller in current_jobs(job, store)}
            ):
                return list(current.values())
            return self._do(job) if job.missing(store) else []

    def _do(self, job: Job) -> list[Job]:
        """Runs a job that this process has claimed. Returns smaller jobs of its trials if it ran out of memory."""
        drop_compiled_programs()
        try:
            run_job(self._context, job)
        except UserError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if is_out_of_memory(error) and job.group is not None:
                if smaller_jobs := self._halved(job):
                    return smaller_jobs
                advice = "set execution.remat, raise training.batches.accumulate, or lower training.batches.size"
                reason = f"one trial needs more memory than the device has; {advice}"
            if self.debug:
                raise
            self._fail(job, reason, "".join(traceback.format_exception(error)))
        return []

    def _halved(self, job: Job) -> list[Job]:
        """Returns jobs with half as many trials; empty if each device has only one trial."""
        smaller_jobs = halve_chunks(job, self.store)
        if smaller_jobs:
            self.emit(events.OutOfMemory(str(job.executor), str(smaller_jobs[0].executor)))
            self.store.drop_checkpoint(job.key)
        return smaller_jobs

    def _fail(self, job: Job, reason: str, trace: str = "") -> None:
        """Records the failure of the missing trials of a job."""
        missing = job.missing(self.store)
        record_failure(job, missing, reason, trace, self.store)
        self.emit(events.TrialsFailed(job.kind, tuple(trial.digest for trial in missing), reason))


def record_failure(job: Job, trials: Sequence[PlannedTrial], reason: str, trace: str, store: Store) -> None:
    """Records the failure of trials or of a source.

    Args:
      job: the failed job.
      trials: its trials without a result.
      reason: the error in one sentence.
      trace: the traceback, or an empty string.
      store: the work directory.
    """
    for trial in trials:
        record = {"status": "failed", "executor": job.executor.name, "error": reason, "traceback": trace}
        store.write_failure(trial.digest, record)
