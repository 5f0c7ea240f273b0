"""Pieces of a study's work, each done by one process of all that share a work directory: sources, and chunks of trials.

Trials that run side by side are a chunk. Which they are, and by which executor, is decided once and kept, so that a
study that was killed or has grown gives every trial the neighbors, and so the bits, that it had.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax

from jaxft.core.digests import short_digest
from jaxft.core.metrics import METRICS
from jaxft.features.feature_spec import FeatureSpec
from jaxft.store.records import Store
from jaxft.study.executors import Executor, Sequential, create_executor
from jaxft.study.planned import Group, Plan, PlannedTrial


@dataclass(frozen=True, eq=False)
class Job:
    """A source to train (`kind` 'sources'), or trials that run side by side ('trials').

    `key` names its lock and its unfinished state. A place of the chunk that no trial of this plan has repeats another.
    `snapshots` are of a source (a pass, digest of the weights after it), for trials that begin there.
    `feature_specs` are the features of the classifiers in its `group`.
    """

    kind: str
    key: str
    trials: tuple[PlannedTrial, ...]
    executor: Executor
    snapshots: tuple[tuple[int, str], ...] = ()
    feature_specs: tuple[FeatureSpec, ...] = ()
    group: Group | None = None

    @property
    def source(self) -> PlannedTrial | None:
        """Returns the trained source that it starts from."""
        first = self.trials[0]
        return first.source.trained if self.kind == "trials" and first.starts_from_source else None

    def missing(self, store: Store) -> list[PlannedTrial]:
        """Returns the trials that are neither stored nor have failed since the study was begun."""
        unique = dict.fromkeys(self.trials)
        return [t for t in unique if not self._is_stored(t, store) and not store.has("failures", t.digest)]

    def _is_stored(self, trial: PlannedTrial, store: Store) -> bool:
        record = store.read(self.kind, trial.digest)
        if record is None or not self.snapshots or record["status"] != "done":
            return record is not None
        return all(store.weights_path(digest, "sources").is_file() for _, digest in self.snapshots)

    def source_is_ready(self, store: Store) -> bool:
        """Tells whether the source that it starts from is trained, and the weights are there that it starts from."""
        record = store.read("sources", self.source.digest) if self.source else None
        if record is None:
            return self.source is None
        snapshots = (trial for trial in self.trials if trial.starts_from_source and trial.source.epoch is not None)
        digests = {trial.source.digest for trial in snapshots}
        return record["status"] != "done" or all(store.weights_path(d, "sources").is_file() for d in digests)

    def num_epochs(self, store: Store) -> int:
        """Returns the epochs of the missing trials."""
        return sum(trial.program.num_epochs for trial in self.missing(store))


def source_jobs(plan: Plan, store: Store) -> list[Job]:
    """Returns a job for each source that a trial still needs."""
    unfinished = [trial for trial in plan.trials if not store.has("trials", trial.digest)]
    needed = {trial.source.trained for trial in unfinished if trial.starts_from_source}
    jobs = [
        Job("sources", work_key([source.digest]), (source,), Sequential(), plan.snapshots(source))
        for source in plan.sources
        if source in needed
    ]
    return [job for job in jobs if job.missing(store)]


def assign_chunks(group: Group, store: Store, requested: str, choose: Callable[[Group], tuple[Executor, str]]) -> None:
    """Assigns a group's trials to chunks, those that are not yet.

    `choose` is asked for an executor, and why it, where none is kept, or not the one that is `requested` for. Trials
    keep their chunk and their place in it for good, and new ones make new chunks.
    """
    with store.claim(f"group-{group.key}"):
        record = store.group(group.key)
        if record is None or requested not in ("auto", record["executor"]) or record["devices"] > len(jax.devices()):
            executor, why = choose(group)
            finished = {t.digest for t in group.trials if store.has("trials", t.digest)}
            chunks = [c for c in (record or {"chunks": []})["chunks"] if finished.issuperset(c)]
            record = {"executor": executor.name, "width": executor.width, "devices": executor.num_devices, "why": why}
            record["chunks"] = chunks
        assigned = {digest for chunk in record["chunks"] for digest in chunk}
        new = [trial.digest for trial in group.trials if trial.digest not in assigned]
        if new:
            width = record["width"]
            record["chunks"] += _cut(new, width)
            store.write_group(group.key, record)


def _cut(digests: list[str], width: int) -> list[list[str]]:
    """Returns chunks of so many trials; the last is filled up with its first."""
    made = [digests[i : i + width] for i in range(0, len(digests), width)]
    return [chunk + chunk[:1] * (width - len(chunk)) for chunk in made]


def halve_chunks(job: Job, store: Store) -> list[Job]:
    """Halves the chunks of a group that has run out of memory, but those that are stored; returns the jobs of a job's.

    None of them is left where it had one trial on each device. What another process has halved already stays.
    """
    group, narrower = job.group, job.executor.narrower()
    assert group is not None
    with store.claim(f"group-{group.key}"):
        record = store.group(group.key)
        assert record is not None, "its chunks are assigned before"
        if record["width"] >= job.executor.width:
            if narrower is None:
                return []
            chunks = record["chunks"]
            stored = [all(store.has("trials", digest) for digest in chunk) for chunk in chunks]
            record["width"], record["chunks"] = narrower.width, []
            for chunk, is_stored in zip(chunks, stored):
                record["chunks"] += [chunk] if is_stored else _cut(list(dict.fromkeys(chunk)), narrower.width)
            record["why"] = f"{job.executor} ran out of memory"
            store.write_group(group.key, record)
    return pieces_of(job, store)


def pieces_of(job: Job, store: Store) -> list[Job]:
    """Returns the jobs of a job's trials as their chunks are now."""
    assert job.group is not None
    return [other for other in chunk_jobs(job.group, store) if set(other.trials) & set(job.trials)]


def chunk_jobs(group: Group, store: Store) -> list[Job]:
    """Returns a job for each chunk of a group, as they were assigned."""
    record = store.group(group.key)
    assert record is not None, "its chunks are assigned before"
    by_digest = {trial.digest: trial for trial in group.trials}
    jobs = []
    for chunk in record["chunks"]:
        present = [by_digest[digest] for digest in chunk if digest in by_digest]
        if present:
            trials = tuple(by_digest.get(digest, present[0]) for digest in chunk)
            key = work_key([trial.digest for trial in trials])
            executor = create_executor(record["executor"], len(chunk), record["devices"])  # a chunk has what ran it
            jobs.append(Job("trials", key, trials, executor, feature_specs=group.feature_specs, group=group))
    return jobs


def in_order_of(worker: tuple[int, int], jobs: Sequence[Job]) -> list[Job]:
    """Returns jobs in the order in which worker (i, n), the i-th of n from 0 on, does what is not done yet.

    Each begins with programs of its own, so that few are compiled twice.
    """
    programs = list(dict.fromkeys(job.trials[0].program for job in jobs))
    first = programs[len(programs) * worker[0] // worker[1] :]
    return sorted(jobs, key=lambda job: job.trials[0].program not in first)  # which keeps the order of equals


def work_key(digests: Sequence[str]) -> str:
    """Returns what names the unfinished state of trials side by side: other versions, or metrics, have other states."""
    import flax
    import optax

    versions = jax.__version__, flax.__version__, optax.__version__
    return short_digest(*digests, *METRICS, *versions, jax.default_backend())
