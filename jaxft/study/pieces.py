"""Pieces of a study's work: train a source, run trials side by side, fit classifiers of features."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.core import events
from jaxft.features.feature_classifier import FeatureSplit, fit_feature_classifier, make_prefix
from jaxft.store.records import Store
from jaxft.study.chunk.lanes import Lane, Outcome, SharedImages
from jaxft.study.chunk.loop import run_chunk
from jaxft.study.chunk.resuming import CheckpointPolicy, StoredCheckpoints
from jaxft.study.final_weights import drop_weights, final_manifest, nested_variables, source_manifest
from jaxft.study.jobs import Job
from jaxft.study.parameter_changes import backbone_change, backbone_measures, lane_of, parameter_changes
from jaxft.study.planned import Plan, PlannedTrial
from jaxft.study.services import Services
from jaxft.study.trial_loader import TrialLoader, has_initial_weights, loss_weights
from jaxft.study.trial_records import describe_classifier, describe_trial, trial_finished
from jaxft.training.state import Flat
from jaxft.weights import save_weights


@dataclass(frozen=True)
class WorkContext:
    """What a piece of work needs: the plan, the store, where trials start, and the services of the process."""

    plan: Plan
    store: Store
    services: Services
    loader: TrialLoader

    def run_lanes(
        self, job: Job, lanes: Sequence[Lane], snapshots: Mapping[int, Callable[[Flat, Flat], None]] | None = None
    ) -> list[Outcome]:
        """Returns the outcomes of the lanes of a job, from its checkpoint on if it has one."""
        first, seconds = job.trials[0], self.plan.study.execution.checkpoint_seconds
        images = SharedImages(self.loader.images_of(first), first.images.fingerprint)
        policy = CheckpointPolicy(StoredCheckpoints(self.store, job.key), seconds, snapshots or {})
        return run_chunk(first.program, lanes, images, job.executor, self.services, policy)


def do_piece(context: WorkContext, job: Job) -> None:
    """Does a job whose source, if it has one, is there, and stores what comes of it.

    Raises:
      FloatingPointError: the training of the source diverged.
    """
    source = job.source
    if job.kind == "sources":
        train_source(context, job)
    elif source is not None and (context.store.read("sources", source.digest) or {})["status"] == "diverged":
        raise FloatingPointError("training its source diverged; lower 'source.training.optimizer.learning_rate'")
    elif job.feature_specs:
        for planned in job.missing(context.store):
            fit_classifier(context, job, planned)
    else:
        run_trials(context, job)


def fit_classifier(context: WorkContext, job: Job, planned: PlannedTrial) -> None:
    """Fits the classifier of features of a trial, and stores what comes of it."""
    store, loader, services = context.store, context.loader, context.services
    began, split, feature_classifier = time.monotonic(), planned.split, planned.feature_classifier
    assert feature_classifier is not None
    rows = np.unique(np.concatenate([split.train, split.val, split.test]))
    start, images = loader.initial_variables(planned), loader.images_of(planned)
    with services.clock.of("features"):
        prefix = make_prefix(
            planned.model, feature_classifier, job.feature_specs, start, images, planned.images.fingerprint
        )
        features = services.cache.outputs(prefix, rows, services.emit, feature_classifier.feature_spec)
    with services.clock.of("train"):
        train, val, test = (np.searchsorted(rows, subset) for subset in (split.train, split.val, split.test))
        data = FeatureSplit(features, split.labels[rows], train, val, test)
        result = fit_feature_classifier(feature_classifier, data, planned.model.num_classes, loss_weights(planned))
    arrays, record = describe_classifier(planned, result, time.monotonic() - began)
    with services.clock.of("store"):
        store.write_split(planned.sampled.manifest)
        store.write("trials", planned.digest, record, arrays)
    services.emit(trial_finished(planned, record))


def train_source(context: WorkContext, job: Job) -> None:
    """Trains a source network and keeps its weights, with its manifest."""
    store, (planned,) = context.store, job.trials

    def save(digest: str, params: Flat, batch_stats: Flat) -> None:
        with store.writing_weights(digest, "sources") as path:
            save_weights(path, planned.model, nested_variables(params, batch_stats), source_manifest(planned))

    snapshots = {epoch: functools.partial(save, digest) for epoch, digest in job.snapshots}
    lane = dataclasses.replace(context.loader.lane(planned), kind="source")
    (outcome,) = context.run_lanes(job, [lane], snapshots)
    if not outcome.diverged:
        save(planned.digest, outcome.params, outcome.batch_stats)
    arrays, record = describe_trial(planned, outcome, {}, job.executor)
    store.write_split(planned.sampled.manifest)
    store.write("sources", planned.digest, record, arrays)
    store.drop_checkpoint(job.key)
    seconds, accuracy = round(outcome.seconds, 3), outcome.metrics["val_accuracy"]
    context.services.emit(events.SourceTrained(planned.digest, record["status"], seconds, accuracy))


def run_trials(context: WorkContext, job: Job) -> None:
    """Runs trials side by side, and stores what comes of those that are missing."""
    store, missing = context.store, job.missing(context.store)
    lanes = lanes_of(job, missing, context)
    outcomes = context.run_lanes(job, lanes)
    with context.services.clock.of("analyze"):
        changes = parameter_changes(job, lanes, outcomes)
    for trial in missing:
        i = job.trials.index(trial)
        trial_changes = {
            level: {name: dict(change) for name, change in lane_of(changes[level], i).items()} for level in changes
        }
        arrays, record = describe_trial(trial, outcomes[i], trial_changes, job.executor)
        record["relative_change"] = backbone_change(lanes[i].params, outcomes[i].params, trial.model)
        record |= backbone_measures(lanes[i].params, outcomes[i].params, trial.model)
        with context.services.clock.of("store"):
            if context.plan.study.execution.keep_weights != "none" and not outcomes[i].diverged:
                with store.writing_weights(trial.digest) as path:
                    variables = nested_variables(outcomes[i].params, outcomes[i].batch_stats)
                    save_weights(path, trial.model, variables, final_manifest(trial))
            store.write_split(trial.sampled.manifest)
            store.write("trials", trial.digest, record, arrays)
        context.services.emit(trial_finished(trial, record))
    store.drop_checkpoint(job.key)
    drop_weights(context.plan, store, missing)


def lanes_of(job: Job, missing: Sequence[PlannedTrial], context: WorkContext) -> list[Lane]:
    """Returns a lane for each place of a chunk; those of trials that are not missing have no name.

    Finished trials run again beside the missing ones, which so have the neighbors and bits of the first time. If one
    cannot, as the weights of its source are gone, its place repeats a missing one.
    """
    lanes = {
        trial.digest: context.loader.lane(trial)
        for trial in job.trials
        if trial in missing or has_initial_weights(trial, context.store)
    }
    counted = {job.trials.index(trial) for trial in missing}
    chunk_lanes = [lanes.get(trial.digest, lanes[missing[0].digest]) for trial in job.trials]
    return [lane if i in counted else dataclasses.replace(lane, name="") for i, lane in enumerate(chunk_lanes)]
