"""Running of jobs: training a source network, running trials together, fitting classifiers of features."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.core import events
from jaxft.features.feature_classifier import FeatureSplit, fit_feature_classifier, make_prefix
from jaxft.store.records import Store
from jaxft.study.chunk.lanes import Lane, Outcome, SharedImages
from jaxft.study.chunk.loop import run_chunk
from jaxft.study.chunk.resuming import CheckpointPolicy, Snapshots, StoredCheckpoints
from jaxft.study.final_weights import drop_weights, final_manifest, nested_variables, source_manifest
from jaxft.study.jobs import Job
from jaxft.study.parameter_changes import backbone_change, backbone_measures, parameter_changes, take_trial
from jaxft.study.planned import Plan, PlannedTrial
from jaxft.study.services import Services
from jaxft.study.trial_loader import TrialLoader, has_initial_weights, loss_weights
from jaxft.study.trial_records import describe_classifier, describe_trial, trial_finished
from jaxft.training.state import Flat
from jaxft.weights import save_weights


@dataclass(frozen=True)
class WorkContext:
    """The context of a job: the plan, the store, the services of the process, and the loader of initial weights."""

    plan: Plan
    store: Store
    services: Services
    loader: TrialLoader

    def run_lanes(self, job: Job, lanes: Sequence[Lane], snapshots: Snapshots) -> list[Outcome]:
        """Returns the outcomes of the trials of a job; the job resumes from its checkpoint, if it has one."""
        first, seconds = job.trials[0], self.plan.study.execution.checkpoint_seconds
        images = SharedImages(self.loader.images_of(first), first.images.fingerprint)
        policy = CheckpointPolicy(StoredCheckpoints(self.store, job.key), seconds, snapshots)
        return run_chunk(first.program, lanes, images, job.executor, self.services, policy)


def run_job(context: WorkContext, job: Job) -> None:
    """Runs a job and stores its results. The source network of the job, if it has one, must be trained.

    Raises:
      FloatingPointError: the training of the source network diverged.
    """
    source = job.source
    if job.kind == "sources":
        train_source(context, job)
    elif source is not None and (context.store.read("sources", source.digest) or {})["status"] == "diverged":
        raise FloatingPointError(
            "the training of the source network diverged; lower 'source.training.optimizer.learning_rate'"
        )
    elif job.feature_specs:
        for planned in job.missing(context.store):
            fit_classifier(context, job, planned)
    else:
        run_trials(context, job)


def fit_classifier(context: WorkContext, job: Job, planned: PlannedTrial) -> None:
    """Fits the classifier of features of a trial and stores the results."""
    store, loader, services = context.store, context.loader, context.services
    start_time, split, feature_classifier = time.monotonic(), planned.split, planned.feature_classifier
    assert feature_classifier is not None
    rows = np.unique(np.concatenate([split.train, split.val, split.test]))
    start, images = loader.initial_variables(planned), loader.images_of(planned)
    with services.clock.measure("features"):
        prefix = make_prefix(
            planned.model, feature_classifier, job.feature_specs, start, images, planned.images.fingerprint
        )
        features = services.cache.outputs(prefix, rows, services.emit, feature_classifier.feature_spec)
    with services.clock.measure("train"):
        train, val, test = (np.searchsorted(rows, subset) for subset in (split.train, split.val, split.test))
        data = FeatureSplit(features, split.labels[rows], train, val, test)
        result = fit_feature_classifier(feature_classifier, data, planned.model.num_classes, loss_weights(planned))
    arrays, record = describe_classifier(planned, result, time.monotonic() - start_time)
    with services.clock.measure("store"):
        store.write_split(planned.sampled.manifest)
        store.write("trials", planned.digest, record, arrays)
    services.emit(trial_finished(planned, record))


def train_source(context: WorkContext, job: Job) -> None:
    """Trains a source network and stores its weights with their manifest."""
    store, (planned,) = context.store, job.trials

    def save(digest: str, params: Flat, batch_stats: Flat) -> None:
        with store.writing_weights(digest, "sources") as path:
            save_weights(path, planned.model, nested_variables(params, batch_stats), source_manifest(planned))

    snapshots = Snapshots({epoch: functools.partial(save, digest) for epoch, digest in job.snapshots})
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
    """Runs the trials of a job together and stores the results of the missing ones."""
    store, missing = context.store, job.missing(context.store)
    lanes = lanes_of(job, missing, context)
    outcomes = context.run_lanes(job, lanes, snapshots_of(job, missing, context))
    keeps_weights = context.plan.study.execution.keep_weights != "none"
    with context.services.clock.measure("analyze"):
        changes = parameter_changes(job, lanes, outcomes)
    for trial in missing:
        i = job.trials.index(trial)
        trial_changes = {
            level: {name: dict(change) for name, change in take_trial(changes[level], i).items()} for level in changes
        }
        arrays, record = describe_trial(trial, outcomes[i], trial_changes, job.executor)
        record["relative_change"] = backbone_change(lanes[i].params, outcomes[i].params, trial.model)
        record |= backbone_measures(lanes[i].params, outcomes[i].params, trial.model)
        record["stored_weights"] = keeps_weights and not outcomes[i].diverged
        steps = context.plan.snapshot_steps(trial)
        record["stored_snapshots"] = [step for step in steps if store.snapshot_path(trial.digest, step).is_file()]
        with context.services.clock.measure("store"):
            if record["stored_weights"]:
                with store.writing_weights(trial.digest) as path:
                    variables = nested_variables(outcomes[i].params, outcomes[i].batch_stats)
                    save_weights(path, trial.model, variables, final_manifest(trial))
            store.write_split(trial.sampled.manifest)
            store.write("trials", trial.digest, record, arrays)
        context.services.emit(trial_finished(trial, record))
    store.drop_checkpoint(job.key)
    drop_weights(context.plan, store, missing)


def snapshots_of(job: Job, missing: Sequence[PlannedTrial], context: WorkContext) -> Snapshots:
    """Returns the snapshots of `execution.snapshot_steps`, which store the weights of the missing trials."""
    store = context.store

    def save(i: int, step: int, params: Flat, batch_stats: Flat) -> None:
        trial = job.trials[i]
        if trial in missing:
            with context.services.clock.measure("store"), store.writing_snapshot(trial.digest, step) as path:
                save_weights(path, trial.model, nested_variables(params, batch_stats), final_manifest(trial))

    return Snapshots(steps=context.plan.study.execution.snapshot_steps, save=save)


def lanes_of(job: Job, missing: Sequence[PlannedTrial], context: WorkContext) -> list[Lane]:
    """Returns the initial arrays of each trial of a job; only missing trials have a name.

    Finished trials run again together with the missing ones, so the missing trials are bit-identical to a run without
    interruption. If the source weights of a finished trial no longer exist, a missing trial takes its position.
    """
    lanes = {
        trial.digest: context.loader.lane(trial)
        for trial in job.trials
        if trial in missing or has_initial_weights(trial, context.store)
    }
    counted = {job.trials.index(trial) for trial in missing}
    chunk_lanes = [lanes.get(trial.digest, lanes[missing[0].digest]) for trial in job.trials]
    return [lane if i in counted else dataclasses.replace(lane, name="") for i, lane in enumerate(chunk_lanes)]
