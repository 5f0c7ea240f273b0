"""Jobs of a study: source networks, and chunks of trials that run together. One process runs a job.

The chunks of a group and their executor are chosen once and stored. So a resumed or extended study runs every trial
in the same chunk, and its results are bit-identical.
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
    """A source network to train, or a chunk of trials that run together.

    Attributes:
      kind: 'sources' or 'trials'.
      key: the name of its lock and its checkpoints.
      trials: its trials; a trial of the stored chunk that this plan does not contain is replaced by another one.
      executor: runs the trials.
      snapshots: of a source: (epoch, digest of the weights after this epoch), for trials that start from there.
      feature_specs: the features of all classifiers in its group.
      group: the group of the trials; None for a source.
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
        """Returns the source network that jaxft trains for these trials, or None."""
        first = self.trials[0]
        return first.source.trained if self.kind == "trials" and first.starts_from_source else None

    def missing(self, store: Store) -> list[PlannedTrial]:
        """Returns the trials that are neither stored nor recorded as failed."""
        unique = dict.fromkeys(self.trials)
        return [t for t in unique if not self._is_stored(t, store) and not store.has("failures", t.digest)]

    def _is_stored(self, trial: PlannedTrial, store: Store) -> bool:
        record = store.read(self.kind, trial.digest)
        if record is None or self.kind == "trials" or record["status"] != "done":
            return record is not None
        digests = (trial.digest, *(digest for _, digest in self.snapshots))
        return all(store.weights_path(digest, "sources").is_file() for digest in digests)

    def source_is_ready(self, store: Store) -> bool:
        """Returns whether the source network is trained and the weights that the trials start from exist."""
        record = store.read("sources", self.source.digest) if self.source else None
        if record is None:
            return self.source is None
        digests = {trial.source.digest for trial in self.trials if trial.starts_from_source}
        return record["status"] != "done" or all(store.weights_path(d, "sources").is_file() for d in digests)

    def num_epochs(self, store: Store) -> int:
        """Returns the total number of epochs of the missing trials."""
        return sum(trial.program.num_epochs for trial in self.missing(store))


def source_jobs(plan: Plan, store: Store) -> list[Job]:
    """Returns a job for each source network that an unfinished trial needs, or that lost a damaged file."""
    unfinished = [trial for trial in plan.trials if not store.has("trials", trial.digest)]
    needed = {trial.source.trained for trial in unfinished if trial.starts_from_source}
    jobs = [
        Job("sources", work_key([source.digest]), (source,), Sequential(), plan.snapshots(source))
        for source in plan.sources
        if source in needed or _is_lost(source, plan, store)
    ]
    return [job for job in jobs if job.missing(store)]


def _is_lost(source: PlannedTrial, plan: Plan, store: Store) -> bool:
    """Returns whether a damaged file of a source network was set aside and not written again."""
    return any(store.lost("sources", d) for d in (source.digest, *(digest for _, digest in plan.snapshots(source))))


def assign_chunks(group: Group, store: Store, requested: str, choose: Callable[[Group], tuple[Executor, str]]) -> None:
    """Assigns the new trials of a group to chunks and stores the chunks.

    While the executor is kept, a trial keeps its chunk and its position in it; new trials form new chunks.

    Args:
      group: the group.
      store: holds the record of the group.
      requested: `execution.executor`. A stored executor is kept if this is 'auto' or the same executor, and this
        machine has enough devices.
      choose: returns (executor, reason) for a group whose stored executor is not kept.
    """
    with store.claim(f"group-{group.key}"):
        record = store.group(group.key)
        if record is None or requested not in ("auto", record["executor"]) or record["devices"] > len(jax.devices()):
            executor, reason = choose(group)
            finished = {t.digest for t in group.trials if store.has("trials", t.digest)}
            chunks = [c for c in (record or {"chunks": []})["chunks"] if finished.issuperset(c)]
            record = {
                "executor": executor.name,
                "width": executor.width,
                "devices": executor.num_devices,
                "why": reason,
            }
            record["chunks"] = chunks
        assigned = {digest for chunk in record["chunks"] for digest in chunk}
        new = [trial.digest for trial in group.trials if trial.digest not in assigned]
        if new:
            width = record["width"]
            record["chunks"] += _cut(new, width)
            store.write_group(group.key, record)


def _cut(digests: list[str], width: int) -> list[list[str]]:
    """Returns chunks of `width` digests; the last chunk is padded with its first digest."""
    chunks = [digests[i : i + width] for i in range(0, len(digests), width)]
    return [chunk + chunk[:1] * (width - len(chunk)) for chunk in chunks]


def halve_chunks(job: Job, store: Store) -> list[Job]:
    """Halves the chunks of a group that ran out of memory, and returns the new jobs of the trials of `job`.

    Stored chunks stay as they are, and so do chunks that another process has halved already. The result is empty if
    each device has only one trial.
    """
    group, narrower = job.group, job.executor.narrower()
    assert group is not None
    with store.claim(f"group-{group.key}"):
        record = store.group(group.key)
        assert record is not None, "assign_chunks comes first"
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
    return current_jobs(job, store)


def current_jobs(job: Job, store: Store) -> list[Job]:
    """Returns the jobs that contain the trials of `job`, from the stored chunks."""
    assert job.group is not None
    return [stored for stored in chunk_jobs(job.group, store) if set(stored.trials) & set(job.trials)]


def chunk_jobs(group: Group, store: Store) -> list[Job]:
    """Returns a job for each stored chunk of a group."""
    record = store.group(group.key)
    assert record is not None, "assign_chunks comes first"
    by_digest = {trial.digest: trial for trial in group.trials}
    jobs = []
    for chunk in record["chunks"]:
        planned = [by_digest[digest] for digest in chunk if digest in by_digest]
        if planned:
            trials = tuple(by_digest.get(digest, planned[0]) for digest in chunk)
            key = work_key([trial.digest for trial in trials])
            # A chunk from before a halving is wider than the current width of the group.
            executor = create_executor(record["executor"], len(chunk), record["devices"])
            jobs.append(Job("trials", key, trials, executor, feature_specs=group.feature_specs, group=group))
    return jobs


def ordered_for_worker(worker: tuple[int, int], jobs: Sequence[Job]) -> list[Job]:
    """Returns jobs in the order in which worker (i, n) runs them: the worker i of n, counted from 0.

    Each worker starts with a different program, so few programs are compiled twice.
    """
    programs = list(dict.fromkeys(job.trials[0].program for job in jobs))
    first = programs[len(programs) * worker[0] // worker[1] :]
    return sorted(jobs, key=lambda job: job.trials[0].program not in first)  # a stable sort


def work_key(digests: Sequence[str]) -> str:
    """Returns the key of the lock and the checkpoints of a job, from the digests of its trials.

    It also depends on the metrics, the backend, and the versions of JAX, Flax and optax, because checkpoints do.
    """
    import flax
    import optax

    versions = jax.__version__, flax.__version__, optax.__version__
    return short_digest(*digests, *METRICS, *versions, jax.default_backend())
