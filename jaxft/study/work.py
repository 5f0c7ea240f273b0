"""A process's work: pieces of a study, each done by one of the processes that share a work directory."""

import time
import traceback
from collections.abc import Sequence

from jaxft.core import events, interrupts
from jaxft.core.errors import UserError
from jaxft.store.records import Store
from jaxft.study.device_memory import is_out_of_memory, let_go_of_programs
from jaxft.study.jobs import Job, halve_chunks, pieces_of
from jaxft.study.pieces import WorkContext, do_piece
from jaxft.study.planned import Plan, PlannedTrial
from jaxft.study.services import Services
from jaxft.study.trial_loader import TrialLoader

WAIT_SECONDS = 0.5


class Work:
    """Does pieces of a study's work that no other process does; `loader` loads what trials start from."""

    def __init__(self, plan: Plan, store: Store, services: Services, debug: bool = False):
        self.plan, self.store, self.services, self.debug = plan, store, services, debug
        self.emit = services.emit
        self.loader = TrialLoader(store, services, plan.study.execution.device_data_bytes)
        self._context = WorkContext(plan, store, services, self.loader)

    def run(self, jobs: Sequence[Job]) -> None:
        """Does the jobs that no other process does, and returns when all are over."""
        left = [(job, job.missing(self.store)) for job in jobs]
        while left:
            waiting = []
            for job, missing in left:
                if job.missing(self.store):
                    waiting += [(other, other.missing(self.store)) for other in self._attempt(job)]
                else:
                    epochs = sum(trial.program.num_epochs for trial in missing)
                    self.emit(events.WorkDoneElsewhere(epochs, len(missing)))
            if [job for job, _ in waiting] == [job for job, _ in left]:
                interrupts.check()
                self.emit(events.Waiting(f"other processes, which are at {len(left)} pieces of work"))
                time.sleep(WAIT_SECONDS)
            left = waiting

    def _attempt(self, job: Job) -> list[Job]:
        """Does a job, and returns what is left of it.

        It is the job itself where another process is at it, or at what it needs; or smaller ones of the same trials,
        where there was not the memory to run them side by side.
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
            if job.group is not None and job.key not in (now := {piece.key: piece for piece in pieces_of(job, store)}):
                return list(now.values())
            return self._do(job) if job.missing(store) else []

    def _do(self, job: Job) -> list[Job]:
        """Does a job that is this process's, and returns the smaller ones that are left if memory ran out."""
        let_go_of_programs()
        try:
            do_piece(self._context, job)
        except UserError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if is_out_of_memory(error) and job.group is not None:
                if pieces := self._halved(job):
                    return pieces
                advice = "set execution.remat, raise training.batches.accumulate, or lower training.batches.size"
                reason = f"a trial takes more memory than the device has; {advice}"
            if self.debug:
                raise
            self._fail(job, reason, "".join(traceback.format_exception(error)))
        return []

    def _halved(self, job: Job) -> list[Job]:
        """Returns the jobs of half as many trials side by side; none where one trial alone does not fit."""
        pieces = halve_chunks(job, self.store)
        if pieces:
            self.emit(events.OutOfMemory(str(job.executor), str(pieces[0].executor)))
            self.store.drop_checkpoint(job.key)
        return pieces

    def _fail(self, job: Job, reason: str, trace: str = "") -> None:
        """Records why a job's trials failed."""
        missing = job.missing(self.store)
        record_failure(job, missing, reason, trace, self.store)
        self.emit(events.TrialsFailed(job.kind, tuple(trial.digest for trial in missing), reason))


def record_failure(job: Job, trials: Sequence[PlannedTrial], reason: str, trace: str, store: Store) -> None:
    """Records why trials, or a source, failed."""
    for trial in trials:
        record = {"status": "failed", "executor": job.executor.name, "error": reason, "traceback": trace}
        store.write_failure(trial.digest, record)
