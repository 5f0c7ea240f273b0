"""A process's work: pieces of a study, each done by one of the processes that share a work directory."""

import dataclasses
import functools
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.core import events, interrupts
from jaxft.core.errors import UserError
from jaxft.data.streaming import brought
from jaxft.features.classifiers import make_prefix, read_out
from jaxft.models import Network, create_model
from jaxft.store.records import Store
from jaxft.study.changes import body_change, lane_of, parameter_changes
from jaxft.study.chunk.lanes import Lane, Outcome
from jaxft.study.chunk.loop import run_chunk
from jaxft.study.chunk.resuming import StoredCheckpoints
from jaxft.study.executors import is_out_of_memory, let_go_of_programs
from jaxft.study.final_weights import drop_weights, final_manifest, nested_variables
from jaxft.study.jobs import Job, halve_chunks, pieces_of
from jaxft.study.planned import Plan, PlannedSource, PlannedTrial
from jaxft.study.services import Services
from jaxft.study.starts import can_start, held_units, load_own_head, loss_weights, make_lane, stream_key, with_attention
from jaxft.study.trial_records import describe_classifier, describe_trial, trial_finished
from jaxft.training.adapters import init_adapters, is_adapter
from jaxft.training.initialization import collections, start_body, start_head
from jaxft.training.regularization import channel_attention
from jaxft.weights.files import Manifest, load_flat, save_weights

WAIT_SECONDS = 0.5


class Work:
    """What a process needs to do pieces of a study's work."""

    def __init__(self, plan: Plan, store: Store, services: Services, debug: bool = False):
        self.plan, self.store, self.services, self.debug = plan, store, services, debug
        self.features, self.emit, self.clock = services.features, services.emit, services.clock
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
            self.emit(events.OutOfMemory(str(job.executor), str(pieces[0].executor)))
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
        self.emit(events.TrialsFailed(job.kind, tuple(trial.digest for trial in missing), reason))

    def images_of(self, trial: PlannedTrial) -> Any:
        """Returns the images of a trial on the device, where those of one set stay until another's are asked for.

        Those that take more than `execution.device_data_bytes` are streamed.
        """
        if self._images[0] != trial.images.fingerprint:
            self._images = "", None
            there = brought(trial.images.images, self.plan.study.execution.device_data_bytes)
            self._images = trial.images.fingerprint, there
        return self._images[1]

    def _run(self, job: Job, lanes: Sequence[Lane], kind: str, snapshots: Any = None) -> list[Outcome]:
        return run_chunk(
            job.trials[0].program,
            lanes,
            self.images_of(job.trials[0]),
            StoredCheckpoints(self.store, job.key),
            self.plan.study.execution.checkpoint_seconds,
            self.features,
            job.trials[0].images.fingerprint,
            self.emit,
            kind,
            job.executor,
            self.clock,
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
        lane = make_lane(planned, params, start["batch_stats"])
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
            self.emit(events.Working("measuring the attention of channels"))
            with self.clock.of("attention"):
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
            with self.clock.of("features"):
                prefix = make_prefix(planned.model, readout, job.looks, start, images, planned.images.fingerprint)
                features = self.features.outputs(prefix, rows, self.emit, readout.look)
            with self.clock.of("train"):
                train, val, test = (np.searchsorted(rows, part) for part in (split.train, split.val, split.test))
                classes = planned.model.num_classes
                weights = loss_weights(planned)
                read = read_out(readout, features, split.labels[rows], train, val, test, classes, weights)
            arrays, record = describe_classifier(planned, read, time.monotonic() - began)
            with self.clock.of("store"):
                self.store.write_split(planned.drawn.manifest)
                self.store.write("trials", planned.digest, record, arrays)
            self.emit(trial_finished(planned, record))

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
                save_weights(path, planned.model, nested_variables(params, batch_stats), manifest)

        snapshots = {epoch: functools.partial(save, digest) for epoch, digest in job.snapshots}
        (outcome,) = self._run(job, [self.lane(planned)], "source", snapshots)
        if not outcome.diverged:
            save(planned.digest, outcome.params, outcome.batch_stats)
        arrays, record = describe_trial(planned, outcome, {}, job.executor)
        self.store.write_split(planned.drawn.manifest)
        self.store.write("sources", planned.digest, record, arrays)
        self.store.drop_checkpoint(job.key)
        self.emit(
            events.SourceTrained(planned.digest, record["status"], round(outcome.seconds, 3), outcome.val_accuracy)
        )

    def _run_trials(self, job: Job) -> None:
        """Runs a chunk, and stores what of it was missing."""
        store, chunk, missing = self.store, job.trials, job.missing(self.store)
        # Finished trials run again beside the missing ones, which so have the neighbours and bits of the first time.
        there = {t.digest: self.lane(t) for t in chunk if t in missing or can_start(t, store)}
        lanes = [there.get(trial.digest, there[missing[0].digest]) for trial in chunk]
        counted = {chunk.index(trial) for trial in missing}  # the others have no name in events
        lanes = [lane if i in counted else dataclasses.replace(lane, name="") for i, lane in enumerate(lanes)]
        outcomes = self._run(job, lanes, "train")
        with self.clock.of("analyse"):
            changes = parameter_changes(job, lanes, outcomes)
        for trial in missing:
            i = chunk.index(trial)
            outcome = outcomes[i]
            own = {
                level: {name: change._asdict() for name, change in lane_of(changes[level], i).items()}
                for level in changes
            }
            arrays, record = describe_trial(trial, outcome, own, job.executor)
            record["relative_change"] = body_change(lanes[i].params, outcome.params, trial.model)
            with self.clock.of("store"):
                if self.plan.study.execution.keep_weights != "none" and not outcome.diverged:
                    with store.writing_weights(trial.digest) as path:
                        variables = nested_variables(outcome.params, outcome.batch_stats)
                        save_weights(path, trial.model, variables, final_manifest(trial))
                store.write_split(trial.drawn.manifest)
                store.write("trials", trial.digest, record, arrays)
            self.emit(trial_finished(trial, record))
        store.drop_checkpoint(job.key)
        drop_weights(self.plan, store, missing)


def record_failure(job: Job, trials: Sequence[PlannedTrial], reason: str, trace: str, store: Store) -> None:
    """Records why trials, or a source, failed."""
    for trial in trials:
        record = {"status": "failed", "executor": job.executor.name, "error": reason, "traceback": trace}
        store.write_failure(trial.digest, record)
