"""Runs what of a plan the store does not hold yet: sources, then trials, then what is measured over all of them."""

import contextlib
import dataclasses
import functools
import math
import time
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxft import config as cfg
from jaxft.analysis import parameters
from jaxft.core import interrupts, paths
from jaxft.core.devices import num_cores
from jaxft.core.errors import UserError
from jaxft.core.text import duration
from jaxft.core.timing import Clock
from jaxft.data.augmentation.augment import NUM_CROPS
from jaxft.data.batches import class_weights
from jaxft.data.streaming import brought
from jaxft.features.activations import FeatureCache, make_feature_cache, output_shape
from jaxft.features.classifiers import Read, make_prefix, read_out
from jaxft.models import Network, create_model
from jaxft.models.cost import unit_costs
from jaxft.ops import convolution
from jaxft.store.records import Store
from jaxft.study.executors import Executor, candidates, is_out_of_memory, let_go_of_programs, num_workers
from jaxft.study.jobs import Job, assign_chunks, chunk_jobs, halve_chunks, in_order_of, pieces_of, source_jobs
from jaxft.study.loop import CURVES, Lane, Outcome, needed_bytes, run_chunk, stack, time_evaluation, time_steps
from jaxft.study.plan import Group, Plan, PlannedSource, PlannedTrial
from jaxft.study.workers import Workers
from jaxft.training.adapters import init_adapters, is_adapter
from jaxft.training.initialization import collections, start_body, start_head
from jaxft.training.optimizers import make_hparams
from jaxft.training.regularization import channel_attention
from jaxft.weights.files import Manifest, fit, is_head, load_flat, load_weights, read_file, refuse_damaged, save_weights

MOST_PAIR_BYTES = 4_000_000_000
WORTH_SECONDS = 20.0  # less work than this is not worth looking for a faster way to do it
CORE_MACS = 3e10  # multiply-accumulates of training in a second on a core: 1.5e10 to 4e10 were measured
WAIT_SECONDS = 0.5


class Progress(Protocol):
    """Is told how the work goes on, in epochs of trials, and where the time goes."""

    clock: Clock

    def begin(self, total_epochs: int, total_trials: int, trials_done: int) -> None:
        """Says how much is to be done."""

    def epoch(self, phase: str, trials: int, line: str) -> None:
        """Says that `trials` trials ended an epoch."""

    def trials(self, count: int) -> None:
        """Says that `count` trials are stored."""

    def elsewhere(self, epochs: int, trials: int) -> None:
        """Says that another process did what was counted here."""

    def note(self, line: str) -> None:
        """Says how far something between two epochs is."""

    def say(self, line: str) -> None:
        """Says a line that stays."""


def run_plan(
    plan: Plan,
    store: Store,
    progress: Progress,
    debug: bool = False,
    features: FeatureCache | None = None,
    shard: tuple[int, int] = (0, 1),
) -> int:
    """Runs what the store does not hold, and returns how many trials failed.

    Sources come first, then groups in the plan's order. A trial that fails, or whose source does, is recorded and the
    others go on. Other processes may run the same plan in the same store: each piece of work is done by one of them.
    Of `shard` (i, n) it is every n-th chunk from the i-th on, counted from 0. `features` may be shared with other
    plans of the same images.

    Raises `jaxft.core.interrupts.Stopped` where the process was told to end.
    """
    execution = plan.study.execution
    for digest in (*(trial.digest for trial in plan.trials), *(source.digest for source in plan.sources)):
        store.drop_failure(digest)
    features = make_feature_cache(execution) if features is None else features
    work = Work(plan, store, progress, debug, features)
    with convolution.use(execution.cpu_convolution), contextlib.closing(Pool(plan, store, debug)) as pool:
        sources = source_jobs(plan, store)
        chooser = Chooser(plan, store, progress)
        for group in plan.groups:
            assign_chunks(group, store, execution.executor, chooser.choose)
        chunks = [job for group in plan.groups for job in chunk_jobs(group, store)]
        chunks = [job for job in chunks[shard[0] :: shard[1]] if job.missing(store)]
        missing = sum(len(job.missing(store)) for job in chunks)
        total = sum(job.num_epochs(store) for job in (*sources, *chunks))
        progress.begin(total, len(plan.trials), len(plan.trials) - missing)
        by_workers = [job for job in chunks if job.executor.name == "workers"]
        if len(sources) < pool.size or not by_workers:  # each is trained the faster with all cores
            work.run(sources)
        if by_workers:
            pool.run(progress, shard)
            for job in by_workers:  # each is over, but for what a worker was at that was killed
                if lost := job.missing(store):
                    died = f"its process ended with code {pool.workers.ended()}, perhaps for want of memory"
                    record_failure(job, lost, died, "", store)
                    progress.say(f"{len(lost)} trial{'s' * (len(lost) > 1)} failed: {died}")
        work.run([*sources, *(job for job in chunks if job not in by_workers)])
    _drop_weights(plan, store, plan.trials)
    unfinished = [trial for trial in plan.trials if not store.has("trials", trial.digest)]
    if not unfinished:
        measure_pairs(plan, store, progress)
        store.drop_checkpoints()
    return sum(store.has("failures", trial.digest) for trial in unfinished)


def check_convolution(store: Store, is_worker: bool = False) -> None:
    """Records what computes the convolutions of a study when it begins, and checks it when it goes on.

    Raises:
      UserError: this process would compute them otherwise, and so give its trials other last digits.
    """
    name, threads = convolution.implementation()
    began = store.keep_convolution({"computed_by": name, "threads": threads})
    if name != began["computed_by"] or (threads != began["threads"] and not is_worker):  # a worker has one core
        then, now = convolution.described(**began), convolution.described(name, threads)
        raise UserError(
            f"the study in {str(store.workdir)!r} was begun with convolutions by {then}, and this process has them "
            f"by {now}; go on as it was begun (execution.cpu_convolution, processor, number of cores), or name another "
            "work directory."
        )


class Work:
    """What a process needs to do pieces of a study's work."""

    def __init__(self, plan: Plan, store: Store, progress: Progress, debug: bool, features: FeatureCache):
        self.plan, self.store, self.progress, self.debug, self.features = plan, store, progress, debug, features
        self._images: tuple[str, Any] = ("", None)
        self._load_body = functools.lru_cache(maxsize=1)(load_flat)  # trials of one source share its arrays
        self._load_head = functools.lru_cache(maxsize=1)(load_own_head)
        self._attention: dict[Any, dict[str, np.ndarray]] = {}

    def run(self, jobs: Sequence[Job]) -> None:
        """Does the jobs that no other process does, and returns when all are over."""
        left = [(job, job.missing(self.store)) for job in jobs]
        while left:
            waiting = []
            for job, missing in left:
                if job.missing(self.store):
                    waiting += [(other, other.missing(self.store)) for other in self._attempt(job)]
                else:
                    self.progress.elsewhere(sum(trial.program.num_epochs for trial in missing), len(missing))
            if [job for job, _ in waiting] == [job for job, _ in left]:
                interrupts.check()
                self.progress.note(f"waiting for other processes, which are at {len(left)} pieces of work")
                time.sleep(WAIT_SECONDS)
            left = waiting

    def _attempt(self, job: Job) -> list[Job]:
        """Does a job, and returns what is left of it.

        It is the job itself where another process is at it, or at what it needs; or smaller ones of the same trials,
        where there was not the memory to run them side by side.
        """
        store, source = self.store, job.source
        if source is not None and not job.source_is_there(store):
            if not store.has("failures", source.digest):
                return [job]
            self._fail(job, str((store.read("failures", source.digest) or {})["error"]))
            return []
        with store.claim(job.key, wait=False) as mine:
            if not mine:
                return [job]
            if job.group is not None and job.key not in (now := {piece.key: piece for piece in pieces_of(job, store)}):
                return list(now.values())
            if job.missing(store):
                let_go_of_programs()
                try:
                    self._do(job)
                except UserError:
                    raise
                except Exception as error:
                    if is_out_of_memory(error) and job.group is not None:
                        if pieces := self._halved(job):
                            return pieces
                        advice = (
                            "set execution.remat, raise training.batches.accumulate, or lower training.batches.size"
                        )
                        reason = f"a trial takes more memory than the device has; {advice}"
                    else:
                        reason = f"{type(error).__name__}: {error}"
                    if self.debug:
                        raise
                    self._fail(job, reason, "".join(traceback.format_exception(error)))
            return []

    def _halved(self, job: Job) -> list[Job]:
        """Returns the jobs of half as many trials side by side; none where one trial alone does not fit."""
        pieces = halve_chunks(job, self.store)
        if pieces:
            self.progress.say(f"{job.executor} ran out of memory; going on with {pieces[0].executor}")
            self.store.drop_checkpoint(job.key)
        return pieces

    def _do(self, job: Job) -> None:
        source = job.source
        if job.kind == "sources":
            self._train_source(job)
        elif source is not None and (self.store.read("sources", source.digest) or {})["status"] == "diverged":
            raise FloatingPointError("training its source diverged; lower 'source.training.optimizer.learning_rate'")
        elif job.looks:
            self._read_out(job)
        else:
            self._run_trials(job)

    def _fail(self, job: Job, reason: str, trace: str = "") -> None:
        """Records why a job's trials failed."""
        missing = job.missing(self.store)
        record_failure(job, missing, reason, trace, self.store)
        what = f"{len(missing)} trial{'s' * (len(missing) > 1)}" if job.kind == "trials" else "a source"
        self.progress.say(f"{what} failed: {reason.splitlines()[0]}")

    def images_of(self, trial: PlannedTrial) -> Any:
        """Returns the images of a trial on the device, where those of one set stay until another's are asked for.

        Those that take more than `execution.device_data_bytes` are streamed.
        """
        if self._images[0] != trial.images.fingerprint:
            self._images = "", None
            there = brought(trial.images.images, self.plan.study.execution.device_data_bytes)
            self._images = trial.images.fingerprint, there
        return self._images[1]

    def _run(self, job: Job, lanes: Sequence[Lane], phase: str, count: int, snapshots: Any = None) -> list[Outcome]:
        return run_chunk(
            job.trials[0].program,
            lanes,
            self.images_of(job.trials[0]),
            lambda line: self.progress.epoch(phase, count, line),
            StoredCheckpoints(self.store, job.key),
            self.plan.study.execution.checkpoint_seconds,
            self.features,
            job.trials[0].images.fingerprint,
            self.progress.note,
            job.executor,
            self.progress.clock,
            snapshots,
        )

    def lane(self, planned: PlannedTrial) -> Lane:
        """Returns the arrays of a trial as it begins."""
        training, start = planned.trial.training, self.start(planned)
        params = start["params"]
        if training.initialization.head != "lecun":
            images, split = planned.images, planned.split
            preprocessing = planned.program.phases[-1].preprocessing
            sees = self.images_of(planned), images.fingerprint, split.train, split.labels[split.train], self.features
            params = params | start_head(planned.model, preprocessing, training, start, *sees)
        key = stream_key("init", planned.trial.stream_seed("init"))
        params = params | init_adapters(filter(is_adapter, planned.layers), params, training.layers.lora_rank, key)
        lane = _make_lane(planned, params, start["batch_stats"])
        if not any(phase.regularisers.needs_source for phase in planned.program.phases):
            return lane
        own = collections(self._body_of(planned.source))
        own["params"].update(self._load_head(*self._weights_of(planned.source)))
        lane = dataclasses.replace(lane, source=own)
        return with_attention(lane, self._attention_of(planned, lane))

    def start(self, planned: PlannedTrial) -> dict[str, dict[str, Any]]:
        """Returns the flat `params` and `batch_stats` that a trial starts from, its head drawn."""
        key = stream_key("init", planned.trial.stream_seed("init"))
        body = self._body_of(planned.source) if planned.starts_from_source else None
        return start_body(planned.model, planned.trial.training, key, planned.size_px, body)

    def _body_of(self, source: PlannedSource) -> Mapping[str, Any]:
        """Returns the leaves of a source's weights below its head, by name with their collection."""
        body, _ = self._load_body(*self._weights_of(source), "new")
        return body

    def _weights_of(self, source: PlannedSource) -> tuple[Any, Network]:
        """Returns the weight file of a source, and its network, for any number of classes."""
        path = self.store.weights_path(source.digest, "sources") if source.trained else source.path
        return path, create_model(source.model, 2)

    def _attention_of(self, planned: PlannedTrial, lane: Lane) -> dict[str, np.ndarray]:
        """Returns the attention of the channels that DELTA holds, measured once for trials of one source and split."""
        units = held_units(planned)
        key = planned.source.digest, planned.images.fingerprint, planned.split.digest, planned.size_px, units
        if units and key not in self._attention:
            self.progress.note("measuring the attention of channels")
            with self.progress.clock.of("attention"):
                self._attention[key] = channel_attention(
                    planned.model,
                    planned.program.phases[-1].preprocessing,
                    lane.source or {},
                    units,
                    self.images_of(planned),
                    planned.images.fingerprint,
                    lane.train,
                    lane.labels[lane.train],
                    self.features,
                )
        return self._attention[key] if units else {}

    def _read_out(self, job: Job) -> None:
        """Fits the classifiers of features of a chunk, one after another, and stores what came of them."""
        for planned in job.missing(self.store):
            began, split, readout = time.monotonic(), planned.split, planned.readout
            assert readout is not None
            rows = np.unique(np.concatenate([split.train, split.val, split.test]))
            start, images = self.start(planned), self.images_of(planned)
            with self.progress.clock.of("features"):
                prefix = make_prefix(planned.model, readout, job.looks, start, images, planned.images.fingerprint)
                features = self.features.outputs(prefix, rows, self._note, readout.look)
            with self.progress.clock.of("train"):
                train, val, test = (np.searchsorted(rows, part) for part in (split.train, split.val, split.test))
                classes = planned.model.num_classes
                weights = loss_weights(planned)
                read = read_out(readout, features, split.labels[rows], train, val, test, classes, weights)
            arrays, record = _describe_read(planned, read, time.monotonic() - began)
            with self.progress.clock.of("store"):
                self.store.write_split(planned.drawn.manifest)
                self.store.write("trials", planned.digest, record, arrays)
            self.progress.trials(1)

    def _note(self, line: str) -> None:
        interrupts.check()
        self.progress.note(line)

    def _train_source(self, job: Job) -> None:
        """Trains a source network and keeps its weights, with its manifest."""
        (planned,) = job.trials
        manifest = Manifest(
            f"{planned.digest}.safetensors",
            "",
            planned.model.architecture,
            planned.program.phases[0].preprocessing,
            planned.images.class_names,
            f"trained by jaxft, source {planned.digest}",
            resize_px=planned.resize_px,
        )

        def save(digest: str, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> None:
            with self.store.writing_weights(digest, "sources") as path:
                save_weights(path, planned.model, _variables(params, batch_stats), manifest)

        snapshots = {epoch: functools.partial(save, digest) for epoch, digest in job.snapshots}
        (outcome,) = self._run(job, [self.lane(planned)], "source", 1, snapshots)
        if not outcome.diverged:
            save(planned.digest, outcome.params, outcome.batch_stats)
        arrays, record = _describe(planned, outcome, {}, job.executor)
        self.store.write_split(planned.drawn.manifest)
        self.store.write("sources", planned.digest, record, arrays)
        self.store.drop_checkpoint(job.key)
        on_val = "" if outcome.val_accuracy is None else f", validation accuracy {outcome.val_accuracy:.1%}"
        self.progress.say(f"source {planned.digest} trained in {outcome.seconds:.0f} s{on_val}")

    def _run_trials(self, job: Job) -> None:
        """Runs a chunk, and stores what of it was missing."""
        store, chunk, missing = self.store, job.trials, job.missing(self.store)
        # Finished trials run again beside the missing ones, which so have the neighbours and bits of the first time.
        there = {t.digest: self.lane(t) for t in chunk if t in missing or _can_start(t, store)}
        lanes = [there.get(trial.digest, there[missing[0].digest]) for trial in chunk]
        outcomes = self._run(job, lanes, "train", len(missing))
        with self.progress.clock.of("analyse"):
            changes = _changes(job, lanes, outcomes)
        for trial in missing:
            i = chunk.index(trial)
            outcome = outcomes[i]
            own = {
                level: {name: change._asdict() for name, change in _lane_of(changes[level], i).items()}
                for level in changes
            }
            arrays, record = _describe(trial, outcome, own, job.executor)
            record["relative_change"] = _body_change(lanes[i].params, outcome.params, trial.model)
            with self.progress.clock.of("store"):
                if self.plan.study.execution.keep_weights != "none" and not outcome.diverged:
                    with store.writing_weights(trial.digest) as path:
                        variables = _variables(outcome.params, outcome.batch_stats)
                        save_weights(path, trial.model, variables, _final_manifest(trial))
                store.write_split(trial.drawn.manifest)
                store.write("trials", trial.digest, record, arrays)
            self.progress.trials(1)
        store.drop_checkpoint(job.key)
        _drop_weights(self.plan, store, missing)


def record_failure(job: Job, trials: Sequence[PlannedTrial], reason: str, trace: str, store: Store) -> None:
    """Records why trials, or a source, failed."""
    for trial in trials:
        record = {"status": "failed", "executor": job.executor.name, "error": reason, "traceback": trace}
        store.write_failure(trial.digest, record)


# --- by which executor ------------------------------------------------------------------------------------------


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

    def run(self, progress: Progress, shard: tuple[int, int]) -> None:
        """Lets them do their share of the work, and tells how it goes."""
        for message in self.workers.ask({"run": shard}):
            if "error" in message:
                raise UserError(message["error"])
            if "seconds" in message:
                progress.clock.add(message["seconds"], message["num_compiled"])
            for name in ("epoch", "trials", "note", "say"):
                if name in message:
                    getattr(progress, name)(*message[name])

    def close(self) -> None:
        """Lets them end."""
        if self._workers is not None:
            self._workers.close()


def run_workers_share(
    plan: Plan, store: Store, progress: Progress, debug: bool, shard: tuple[int, int], worker: tuple[int, int]
) -> None:
    """Does, as `worker` (i, n) of n processes, what of a plan's work is theirs: sources, then chunks."""
    execution = plan.study.execution
    with convolution.use(execution.cpu_convolution):
        check_convolution(store, is_worker=True)
        chunks = [job for group in plan.groups for job in chunk_jobs(group, store)]
        theirs = [job for job in chunks[shard[0] :: shard[1]] if job.executor.name == "workers"]
        own = in_order_of(worker, theirs)
        features = make_feature_cache(execution)
        Work(plan, store, progress, debug, features).run([*source_jobs(plan, store), *own])


class Chooser:
    """Chooses executors: on a CPU by an estimate of the study's work, elsewhere by timing steps."""

    def __init__(self, plan: Plan, store: Store, progress: Progress):
        self.plan, self.progress = plan, progress
        self._found: dict[str, list[Executor]] = {}
        self._alike: dict[Any, list[Group]] = {}
        for group in plan.groups:
            if store.group(group.key) is None and len(self._candidates(group)) > 1:
                self._alike.setdefault(self._kind(group), []).append(group)
        self._taken: dict[str, dict[Executor, float]] = {}
        self._has_said = False

    def choose(self, group: Group) -> tuple[Executor, str]:
        """Returns an executor for a group, and why it.

        On a CPU, worker processes train a study in four fifths of the time, and take some seconds to start; they are
        chosen where there is enough to do, by an estimate. Elsewhere executors are timed. Of groups that train one
        network and may run alike, the one with most to do is timed for all: to compile each of them for each executor
        would take longer than most studies gain.
        """
        found = self._candidates(group)
        if len(found) == 1:
            return found[0], ""
        if found[-1].name == "workers":
            return self._workers_or(found[0], found[-1])
        if self.plan.study.execution.deterministic:
            # Sums over the devices of one trial's batch are repeatable only if the collectives keep their order.
            found = [executor for executor in found if executor.name != "data_parallel"]
            return found[-1], "the widest, as nothing is timed"
        alike = self._alike.get(self._kind(group), [group])
        measured = max(alike, key=lambda group: num_steps(group) * len(group.trials))
        is_new = measured.key not in self._taken
        taken = self._seconds_of(measured, found)
        best = min(taken, key=taken.__getitem__)
        why = f"steps of {len(measured.trials)} would take " + ", ".join(
            f"{duration(seconds)} {executor}" for executor, seconds in taken.items() if seconds < math.inf
        )
        if is_new:
            self.progress.say(f"{sum(len(group.trials) for group in alike)} trials: {best}, as the {why}")
        return best, why

    def _workers_or(self, in_turn: Executor, workers: Executor) -> tuple[Executor, str]:
        chosen = workers if self._cpu_seconds >= WORTH_SECONDS else in_turn
        why = f"all steps take about {duration(self._cpu_seconds)} in turn"
        if not self._has_said:
            self.progress.say(f"{sum(len(group.trials) for group in self._new)} trials: {chosen}, as {why}")
            self._has_said = True
        return chosen, why

    @functools.cached_property
    def _cpu_seconds(self) -> float:
        """Returns about how long the steps of all new groups take in turn on the cores of a CPU."""
        return sum(num_macs(group) * len(group.trials) for group in self._new) / (CORE_MACS * num_cores())

    @property
    def _new(self) -> list[Group]:
        """Returns the groups for which an executor is to be chosen."""
        return [group for groups in self._alike.values() for group in groups]

    def _kind(self, group: Group) -> Any:
        """Returns what groups have in common for which one choice will do."""
        phase = group.program.phases[-1]
        return phase.model, phase.batch_size, tuple(self._candidates(group))

    def _candidates(self, group: Group) -> list[Executor]:
        if group.looks:  # classifiers of features, each of which has all its strengths side by side
            return [Executor()]
        if group.key not in self._found:
            first, execution = group.trials[0], self.plan.study.execution
            heads_only = all(phase.heads_of_features for phase in group.program.phases)

            def needed(executor: Executor) -> float:
                self.progress.note(f"compiling: {executor}")
                return needed_bytes(group.program, example_lane(first), example_images(first, execution), executor)

            batches = [phase.batch_size for phase in group.program.phases]
            self._found[group.key] = candidates(execution, len(group.trials), batches, heads_only, needed)
        return self._found[group.key]

    def _seconds_of(self, group: Group, executors: Sequence[Executor]) -> dict[Executor, float]:
        """Returns what the steps of a group take by each executor, or by the first where all the study's are few."""
        if group.key not in self._taken:
            first, *others = executors
            taken = {first: self._seconds(group, first)}
            in_turn = taken[first] / (num_steps(group) * len(group.trials))  # an upper bound, where less is trained
            if in_turn * sum(num_steps(group) * len(group.trials) for group in self._new) >= WORTH_SECONDS:
                taken |= {executor: self._seconds(group, executor) for executor in others}
            self._taken[group.key] = taken
        return self._taken[group.key]

    def _seconds(self, group: Group, executor: Executor) -> float:
        """Returns what the steps of a group take by an executor, from half a second of them."""
        self.progress.note(f"timing executors: {executor}")
        first = group.trials[0]
        images = example_images(first, self.plan.study.execution)
        try:
            a_step = time_steps(group.program, example_lane(first), images, executor)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.progress.say(f"{executor} ran out of memory, and is not used")
            return math.inf
        return a_step * num_steps(group) * -(-len(group.trials) // executor.width)


def num_steps(group: Group) -> int:
    """Returns the steps of each trial of a group."""
    return sum(phase.num_steps for phase in group.program.phases)


def num_macs(group: Group) -> float:
    """Returns the multiply-accumulates of a trial's steps: three passes over what trains, one over what is not kept."""
    first, total = group.trials[0], 0.0
    by_unit = {unit.name: unit.num_macs for unit in unit_costs(first.model, first.size_px)}
    for phase in group.program.phases:
        units = first.model.units
        below = units[: units.index(phase.prefix) + 1] if phase.prefix is not None else ()
        of_frozen, of_all = sum(by_unit[unit] for unit in below), sum(by_unit.values())
        passes = 3 * (of_all - of_frozen) + (0 if phase.keeps_prefix else of_frozen)
        total += passes * phase.num_steps * phase.batch_size
    return total


def example_lane(planned: PlannedTrial) -> Lane:
    """Returns the arrays of a trial for timing: their values do not matter."""
    rng = np.random.Generator(np.random.PCG64(0))
    flat: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, shape in planned.shapes.items():
        collection, _, leaf = name.partition("/")
        values = rng.normal(0, 0.05, shape) if collection == "params" else np.ones(shape)
        flat[collection][leaf] = values.astype(np.float32)
    lane = _make_lane(planned, flat["params"], flat["batch_stats"])
    shapes = {unit: output_shape(planned.model, unit, planned.size_px) for unit in held_units(planned)}
    return with_attention(lane, {unit: np.ones(shape[-1], np.float32) for unit, shape in shapes.items()})


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a plan still needs: trials and sources, and seconds of 'sources', 'training', 'evaluation', 'compiling'."""

    trials: int
    sources: int
    seconds: Mapping[str, float]


def estimate(plan: Plan, store: Store | None, say: Callable[[str], None]) -> Estimate:
    """Returns how long what `store` lacks of a plan takes in one process, trial after trial.

    Steps and evaluations are timed here, once for each kind of network, batch and random changes. What it takes to
    compile is that of the programs timed, times how many others of their kind there are: those timed are kept by then.
    """
    trials = [trial for trial in plan.trials if store is None or not store.has("trials", trial.digest)]
    starts = {trial.source.trained for trial in trials if trial.starts_from_source}
    sources = [s for s in plan.sources if s in starts and (store is None or not store.has("sources", s.digest))]
    seconds = dict.fromkeys(("sources", "training", "evaluation", "compiling"), 0.0)
    timed: dict[Any, tuple[float, float, float]] = {}
    programs: dict[Any, set[Any]] = {}
    with convolution.use(plan.study.execution.cpu_convolution):
        for planned in (*sources, *(trial for trial in trials if trial.readout is None)):
            program = planned.program
            phase = max(program.phases, key=lambda phase: phase.num_steps)
            how = (phase.batch_size, phase.changes, phase.views, phase.whole, phase.prefix, program.eval_batch_size)
            gradient = phase.optimizer.kind, phase.num_parts, phase.sharpness, phase.regularisers
            kind = planned.model, planned.size_px, planned.resize_px, phase.trainable, how, gradient
            if kind not in timed:
                say(f"timing {planned.model.architecture}")
                lane, clock = example_lane(planned), Clock()
                images = example_images(planned, plan.study.execution)
                with clock.of("timing"):
                    a_step = time_steps(program, lane, images, Executor())
                    an_image = time_evaluation(program, lane, images)
                timed[kind] = a_step, an_image, clock.seconds["compile"]
            programs.setdefault(kind, set()).update(program.phases)
            a_step, an_image, _ = timed[kind]
            split = planned.split
            num_evaluated = program.num_epochs * len(split.val)
            num_evaluated += len(split.test) * (NUM_CROPS if program.test_crops == "ten" else 1)
            if program.phases[-1].recalibrates:
                num_evaluated += len(split.train) + len(split.val)
            what = "sources" if planned in sources else "training"
            seconds[what] += a_step * sum(phase.num_steps for phase in program.phases)
            seconds["evaluation"] += an_image * num_evaluated
    for kind, phases in programs.items():
        seconds["compiling"] += timed[kind][2] * (len(phases) - 1)
    return Estimate(len(trials), len(sources), seconds)


def held_units(planned: PlannedTrial) -> tuple[str, ...]:
    """Returns the units whose maps DELTA holds in any phase of a trial."""
    return tuple(dict.fromkeys(unit for phase in planned.program.phases for unit in phase.regularisers.maps))


def with_attention(lane: Lane, attention: Mapping[str, np.ndarray]) -> Lane:
    """Returns a lane whose numbers have the attention of channels, where there is any."""
    if not attention:
        return lane
    numbers = lane.hparams.regularisers | {"attention": {unit: np.asarray(of) for unit, of in attention.items()}}
    return dataclasses.replace(lane, hparams=lane.hparams._replace(regularisers=numbers))


def load_own_head(weights: Any, model: Network) -> dict[str, Any]:
    """Returns the leaves of the classifier that a weight file has, by name; none where it has none."""
    import jax.numpy as jnp

    tensors, manifest = read_file(weights, model)
    _, flat = fit(tensors, model, manifest)
    refuse_damaged(flat, weights)
    return {name.partition("/")[2]: jnp.asarray(leaf) for name, leaf in flat.items() if is_head(name, model)}


def example_images(planned: PlannedTrial, execution: cfg.Execution) -> np.ndarray:
    """Returns images of a trial for timing: of a set that is streamed the first, which stands for all."""
    images = planned.images.images
    return images[:1] if images.nbytes > execution.device_data_bytes else images


def _can_start(trial: PlannedTrial, store: Store) -> bool:
    """Tells whether the weights that a trial starts from are there."""
    if not trial.starts_from_source or trial.source.trained is None:
        return True
    return store.weights_path(trial.source.digest, "sources").is_file()


def _make_lane(planned: PlannedTrial, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> Lane:
    import jax

    trial, training = planned.trial, planned.trial.training
    return Lane(
        params=dict(params),
        batch_stats=dict(batch_stats),
        hparams=make_hparams(training, planned.layers, loss_weights(planned)),
        labels=planned.split.labels,
        train=planned.split.train,
        val=planned.split.val,
        test=planned.split.test,
        order_seed=trial.stream_seed("order"),
        augment_key=jax.random.key_data(stream_key("augment", trial.stream_seed("augment"))),
        balanced=training.batches.sampling == "balanced",
    )


def loss_weights(planned: PlannedTrial) -> np.ndarray:
    """Returns how much each class weighs in a trial's loss: [classes], or 1 where they all weigh the same."""
    training, split = planned.trial.training, planned.split
    if training.loss.class_weights == "none":
        return np.ones((), np.float32)
    of_train = split.labels[split.train]
    return class_weights(of_train, planned.model.num_classes, training.loss.class_weights, training.loss.beta)


def stream_key(stream: str, seed: int) -> Any:
    """Returns the JAX key of a named stream of random numbers."""
    import jax

    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))


def _describe(
    planned: PlannedTrial, outcome: Outcome, changes: Mapping[str, Any], executor: Executor
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays, record) of a finished trial, as the store keeps them."""
    arrays = {name: np.asarray(values) for name, values in outcome.curves.items()}
    arrays |= {"test_rows": planned.split.test, "test_predictions": outcome.test_predictions}
    for level in ("leaf", "filter"):
        for name, change in changes.get(level, {}).items():
            arrays |= {f"{level}/{measure}/{name}": np.asarray(value) for measure, value in change.items()}
    status = "diverged" if outcome.diverged else "done"
    record = _record(planned, status, outcome, outcome.seconds, executor)
    record["selected_epoch"] = outcome.selected_epoch
    if changes:
        record["changes"] = {
            layer: {measure: _number(value) for measure, value in changes["layer"][layer].items()}
            for layer in planned.layer_names
        }
    return arrays, record


def _describe_read(planned: PlannedTrial, read: Read, seconds: float) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays, record) of a classifier of features, as the store keeps them: it has no epochs."""
    assert planned.readout is not None
    arrays = dict.fromkeys(("epoch", *CURVES), np.zeros(0)) | read.by_level
    arrays |= {"test_rows": planned.split.test, "test_predictions": read.test_predictions}
    record = _record(planned, "done", read, seconds, Executor())
    record |= {"selected_level": read.level, "level_of": planned.readout.level_name}
    return arrays, record | {"relative_change": 0.0}  # the network rests


def _record(
    planned: PlannedTrial, status: str, outcome: Outcome | Read, seconds: float, executor: Executor
) -> dict[str, Any]:
    """Returns what the record of every finished trial has."""
    split = planned.split
    return {
        "schema": cfg.SCHEMA_VERSION,
        "status": status,
        "seed": planned.trial.seed,
        "val_accuracy": outcome.val_accuracy,
        "test_accuracy": outcome.test_accuracy,
        "val_mean_per_class": outcome.val_mean_per_class,
        "test_mean_per_class": outcome.test_mean_per_class,
        "selected_epoch": None,
        "seconds": round(seconds, 3),
        "executor": executor.name,
        "width": executor.width,
        "source": planned.source.digest if planned.starts_from_source else "",
        "split": split.digest,
        "manifest": planned.drawn.manifest["digest"],
        "images": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "identity": planned.identity,
        "trial": cfg.to_dict(planned.trial),
    }


def _changes(job: Job, lanes: Sequence[Lane], outcomes: Sequence[Outcome]) -> dict[str, dict[str, parameters.Change]]:
    """Returns {'layer', 'leaf' or 'filter': {name: Change of [trials, ...]}}.

    Layers that are frozen throughout, which are the same in all trials, are measured once.
    """
    import jax

    width = len(lanes)
    trained = {paths.layer_of(name) for phase in job.trials[0].program.phases for name in phase.trainable}
    found: dict[str, dict[str, parameters.Change]] = {"layer": {}, "leaf": {}, "filter": {}}
    for count, are_trained in ((width, {True}), (1, {False})) if width > 1 else ((1, {True, False}),):
        names = [name for name in outcomes[0].params if (paths.layer_of(name) in trained) in are_trained]
        before = stack([{name: lane.params[name] for name in names} for lane in lanes[:count]])
        after = stack([{name: outcome.params[name] for name in names} for outcome in outcomes[:count]])
        for level, changes in jax.device_get(parameters.changes(before, after)).items():
            found[level] |= jax.tree.map(lambda of: np.broadcast_to(of, (width, *of.shape[1:])), changes)
    return found


def _body_change(before: Mapping[str, Any], after: Mapping[str, Any], model: Network) -> float | None:
    """Returns ||w - w0|| / ||w0|| over all parameters below the head."""
    names = [name for name in after if not name.startswith(model.units[-1] + "/")]
    moved = sum(
        float(np.square(np.asarray(after[n], np.float64) - np.asarray(before[n], np.float64)).sum())
        for n in names
        if after[n] is not before[n]  # frozen
    )
    start = sum(float(np.square(np.asarray(before[n], np.float64)).sum()) for n in names)
    return _number(math.sqrt(moved / start))


def _number(value: Any) -> float | None:
    """Returns a float that JSON can hold: nothing for nan and infinity."""
    number = float(value)
    return number if math.isfinite(number) else None


def _lane_of(tree: Any, i: int) -> Any:
    import jax

    return jax.tree.map(lambda leaf: leaf[i], tree)


def _variables(params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    return {"params": paths.unflatten(params), "batch_stats": paths.unflatten(batch_stats)}


def _final_manifest(trial: PlannedTrial) -> Manifest:
    return Manifest(
        f"{trial.digest}.safetensors",
        "",
        trial.model.architecture,
        trial.program.phases[-1].preprocessing,
        trial.images.class_names,
        f"fine-tuned by jaxft, trial {trial.digest}",
        resize_px=trial.resize_px,
    )


class StoredCheckpoints:
    """Checkpoints of one piece of work in a store."""

    def __init__(self, store: Store, key: str):
        self.store, self.key = store, key

    def latest(self) -> int | None:
        """Returns the place last saved."""
        return self.store.latest_checkpoint(self.key)

    def load(self, place: int, like: Any) -> Any:
        """Returns what was saved at `place`."""
        return self.store.load_checkpoint(self.key, place, like)

    def save(self, place: int, tree: Any) -> None:
        """Keeps `tree`."""
        self.store.save_checkpoint(self.key, place, tree)


# --- after the trials -------------------------------------------------------------------------------------------


def measure_pairs(plan: Plan, store: Store, progress: Progress) -> None:
    """Measures how far apart the kept final weights of the trials are, for each shape of network once.

    All of them are in memory at once: where they take more than `MOST_PAIR_BYTES` they are not compared.
    """
    import jax

    shapes: dict[Any, list[PlannedTrial]] = {}
    for trial in plan.trials:
        if store.has("trials", trial.digest) and store.weights_path(trial.digest).is_file():
            shapes.setdefault((trial.model, trial.size_px), []).append(trial)
    for trials in shapes.values():
        digests = [trial.digest for trial in trials]
        digest = cfg.digest({"analysis": "pairwise", "trials": digests})
        if len(trials) < 2 or store.has("analyses", digest):
            continue
        num_bytes = len(trials) * trials[0].num_bytes
        if num_bytes > MOST_PAIR_BYTES:
            progress.say(f"distances between runs left out: the weights of {len(trials)} take {num_bytes / 1e9:.0f} GB")
            continue
        try:
            loaded = [load_weights(store.weights_path(t.digest), t.model, check_values=False)["params"] for t in trials]
        except UserError as error:
            progress.say(f"distances between runs left out: {error}")
            continue
        by_layer = jax.device_get(parameters.pairwise_distances(stack(loaded)))
        layers = list(trials[0].layer_names)
        distances = np.stack([by_layer[layer] for layer in layers]).astype(np.float32)
        record = {"analysis": "pairwise", "trials": digests, "layers": layers}
        store.write("analyses", digest, record, {"distances": distances})


def _drop_weights(plan: Plan, store: Store, trials: Sequence[PlannedTrial]) -> None:
    """Drops the weights that the policy does not keep, of the settings that `trials` belong to.

    'best_seed' keeps, of each setting, those of the seed with the best validation accuracy, the first of equals.
    """
    policy = plan.study.execution.keep_weights
    if policy == "none":
        for trial in trials:
            store.drop_weights(trial.digest)
    if policy != "best_seed":
        return
    touched = {dataclasses.replace(trial.trial, seed=0) for trial in trials}
    settings: dict[cfg.Trial, list[tuple[float, str]]] = {}
    for trial in plan.trials:
        setting = dataclasses.replace(trial.trial, seed=0)
        record = store.read("trials", trial.digest) if setting in touched else None
        if record is not None and record["status"] == "done":
            settings.setdefault(setting, []).append((record["val_accuracy"] or 0.0, trial.digest))
    for seeds in settings.values():
        best = max(seeds, key=lambda seed: seed[0])
        for _, digest in seeds:
            if digest != best[1]:
                store.drop_weights(digest)
