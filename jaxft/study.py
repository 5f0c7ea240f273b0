"""Runs what of a plan the store does not hold yet: sources, then trials, then what is measured over all of them."""

import dataclasses
import hashlib
import math
import traceback
import zlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxft import config as cfg
from jaxft import convolution, paths
from jaxft.analysis import parameters
from jaxft.errors import UserError
from jaxft.execute import Lane, Outcome, choose_executor, run_chunk, stack
from jaxft.features import FeatureCache, make_feature_cache
from jaxft.models import Network
from jaxft.optim import make_hparams
from jaxft.plan import Group, Plan, PlannedTrial
from jaxft.store import Store, Table, cache_dir
from jaxft.weights import Manifest, init_variables, load, save_weights

MOST_PAIR_BYTES = 4_000_000_000


class Progress(Protocol):
    """Is told how the work goes on, in epochs of trials."""

    def begin(self, total_epochs: int, total_trials: int, trials_done: int) -> None:
        """Says how much is to be done."""

    def epoch(self, phase: str, trials: int, line: str) -> None:
        """Says that `trials` trials ended an epoch."""

    def trials(self, count: int) -> None:
        """Says that `count` trials are stored."""

    def note(self, line: str) -> None:
        """Says how far something between two epochs is."""

    def say(self, line: str) -> None:
        """Says a line that stays."""


def run_plan(
    plan: Plan, store: Store, progress: Progress, debug: bool = False, features: FeatureCache | None = None
) -> int:
    """Runs what the store does not hold, and returns how many trials failed.

    Sources come first, then groups in the plan's order. A trial that fails, or whose source does, is recorded and the
    others go on. `features` may be shared with other plans of the same images.
    """
    with convolution.use(convolution_choices(plan.study.execution, store.convolutions(), progress.note)):
        return _run_plan(plan, store, progress, debug, features)


def convolution_choices(
    execution: cfg.Execution, recorded: MutableMapping[str, str], say: Callable[[str], None]
) -> convolution.Choices:
    """Returns what decides between algorithms: what a run was begun with, what was measured on this device."""
    name = hashlib.sha256(convolution.device_name().encode()).hexdigest()[:16]
    return convolution.Choices(
        None if execution.convolution == "auto" else execution.convolution,
        recorded,
        Table(cache_dir() / "convolutions" / f"{name}.json", is_cache=True),
        execution.convolution_bytes,
        execution.convolution_seconds,
        say,
    )


def _run_plan(plan: Plan, store: Store, progress: Progress, debug: bool, features: FeatureCache | None) -> int:
    import jax.numpy as jnp

    executor, width = choose_executor(plan.study.execution)
    features = make_feature_cache(plan.study.execution) if features is None else features
    todo = [trial for trial in plan.trials if not store.has("trials", trial.digest)]
    starts = {trial.source.digest for trial in todo if trial.starts_from_source}
    sources = [source for source in plan.sources if source.digest in starts]
    untrained = [source for source in sources if not store.has("sources", source.digest)]
    progress.begin(
        sum(trial.program.num_epochs for trial in (*untrained, *todo)), len(plan.trials), len(plan.trials) - len(todo)
    )
    failed = 0
    for source in sources:
        error = _train_source(source, store, progress, plan.study.execution, debug)
        if error is not None:
            stopped = [t for t in todo if t.starts_from_source and t.source.digest == source.digest]
            todo = [trial for trial in todo if trial not in stopped]
            failed += _record_failure(stopped, error, executor, store, progress)
    for group in plan.groups:
        work = [
            (chunk, [trial for trial in chunk if trial in todo])
            for chunk in _assign_chunks(group, store, executor, width)
        ]
        if not any(missing for _, missing in work):
            continue
        images = jnp.asarray(group.trials[0].images.images)  # on the device once, for all trials of the group
        for chunk, missing in work:
            try:
                if missing:
                    _run_trials(plan, chunk, missing, images, executor, store, progress, features)
            except UserError:
                raise
            except Exception as error:
                if debug:
                    raise
                failed += _record_failure(missing, error, executor, store, progress)
    _drop_weights(plan, store, plan.trials)
    measure_pairs(plan, store, progress)
    if not failed:
        store.drop_checkpoints()
    return failed


def _train_source(
    source: PlannedTrial, store: Store, progress: Progress, execution: cfg.Execution, debug: bool
) -> Exception | None:
    """Trains a source that the store does not hold; returns why there is none to start from, if so."""
    try:
        if not store.has("sources", source.digest):
            _run_source(source, store, progress, execution)
    except UserError:
        raise
    except Exception as error:
        if debug:
            raise
        return error
    record = store.read("sources", source.digest) or {}
    if record["status"] == "diverged":
        return FloatingPointError("training its source diverged; lower 'source.procedure.learning_rate'")
    return None


def _record_failure(
    trials: Sequence[PlannedTrial], error: Exception, executor: str, store: Store, progress: Progress
) -> int:
    """Records why trials failed, and returns their number."""
    reason = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    for trial in trials:
        record = {"status": "failed", "executor": executor, "error": reason, "traceback": trace}
        store.write_failure(trial.digest, record)
    progress.say(f"{len(trials)} trial{'s' * (len(trials) > 1)} failed: {reason.splitlines()[0]}")
    return len(trials)


def _assign_chunks(group: Group, store: Store, executor: str, width: int) -> list[list[PlannedTrial]]:
    """Returns the group's trials in chunks that run side by side, as they were first assigned.

    Trials keep their chunk and their place in it for good, and new ones make new chunks, so a study that was killed
    or has grown gives every trial the neighbours, and so the bits, that it had. A group of few trials has a smaller
    width; a place that no trial of this plan has repeats another of the chunk.
    """
    width = min(width, len(group.trials))
    record = store.group(group.key)
    if record is None or record["executor"] != executor:
        finished = {t.digest for t in group.trials if store.has("trials", t.digest)}
        chunks = [c for c in (record or {"chunks": []})["chunks"] if finished.issuperset(c)]
        record = {"executor": executor, "width": width, "chunks": chunks}
    by_digest = {trial.digest: trial for trial in group.trials}
    assigned = {digest for chunk in record["chunks"] for digest in chunk}
    new = [digest for digest in by_digest if digest not in assigned]
    if new:
        width = record["width"]
        made = [new[i : i + width] for i in range(0, len(new), width)]
        record["chunks"] += [chunk + chunk[:1] * (width - len(chunk)) for chunk in made]
        store.write_group(group.key, record)
    chunks = []
    for chunk in record["chunks"]:
        here = [by_digest[digest] for digest in chunk if digest in by_digest]
        if here:
            chunks.append([by_digest.get(digest, here[0]) for digest in chunk])
    return chunks


def _run_source(planned: PlannedTrial, store: Store, progress: Progress, execution: cfg.Execution) -> None:
    """Trains a source network and keeps its weights, with its manifest."""
    import jax.numpy as jnp

    outcome = run_chunk(
        planned.program,
        [_lane(planned, store)],
        jnp.asarray(planned.images.images),
        lambda line: progress.epoch("source", 1, line),
        StoredCheckpoints(store, _checkpoint_key([planned.digest])),
        execution.checkpoint_seconds,
    )[0]
    manifest = Manifest(
        f"{planned.digest}.safetensors",
        "",
        planned.model.architecture,
        planned.program.phases[0].preprocessing,
        planned.images.class_names,
        f"trained by jaxft, source {planned.digest}",
    )
    if not outcome.diverged:
        with store.writing_weights(planned.digest, "sources") as path:
            save_weights(path, planned.model, _variables(outcome), manifest)
    arrays, record = _describe(planned, outcome, {}, "in_turn", 1)
    store.write("sources", planned.digest, record, arrays)
    store.drop_checkpoint(_checkpoint_key([planned.digest]))
    on_val = "" if outcome.val_accuracy is None else f", validation accuracy {outcome.val_accuracy:.1%}"
    progress.say(f"source {planned.digest} trained in {outcome.seconds:.0f} s{on_val}")


def _run_trials(
    plan: Plan,
    chunk: Sequence[PlannedTrial],
    missing: Sequence[PlannedTrial],
    images: Any,
    executor: str,
    store: Store,
    progress: Progress,
    features: FeatureCache,
) -> None:
    """Runs a chunk on `images`, and stores what of it was missing."""
    import jax

    # Finished trials run again beside the missing ones, which so have the neighbours and the bits of the first time.
    there = {t.digest: _lane(t, store) for t in chunk if t in missing or _can_start(t, store)}
    lanes = [there.get(trial.digest, there[missing[0].digest]) for trial in chunk]
    key = _checkpoint_key([trial.digest for trial in chunk])
    outcomes = run_chunk(
        chunk[0].program,
        lanes,
        images,
        lambda line: progress.epoch("train", len(missing), line),
        StoredCheckpoints(store, key),
        plan.study.execution.checkpoint_seconds,
        features,
        chunk[0].images.fingerprint,
        progress.note,
    )
    before, after = stack([lane.params for lane in lanes]), stack([outcome.params for outcome in outcomes])
    changes = jax.device_get(
        {
            "layer": parameters.layer_changes(before, after),
            "leaf": parameters.leaf_changes(before, after),
            "filter": parameters.filter_changes(before, after),
        }
    )
    for trial in missing:
        i = chunk.index(trial)
        outcome = outcomes[i]
        own = {
            level: {name: change._asdict() for name, change in _lane_of(changes[level], i).items()} for level in changes
        }
        arrays, record = _describe(trial, outcome, own, executor, len(chunk))
        record["relative_change"] = _body_change(lanes[i].params, outcome.params, trial.model)
        if plan.study.execution.keep_weights != "none" and not outcome.diverged:
            with store.writing_weights(trial.digest) as path:
                save_weights(path, trial.model, _variables(outcome), _final_manifest(trial))
        store.write("trials", trial.digest, record, arrays)
        progress.trials(1)
    store.drop_checkpoint(key)
    _drop_weights(plan, store, missing)


def _can_start(trial: PlannedTrial, store: Store) -> bool:
    """Tells whether the weights that a trial starts from are there."""
    if not trial.starts_from_source or trial.source.trained is None:
        return True
    return store.weights_path(trial.source.digest, "sources").is_file()


def _checkpoint_key(digests: Sequence[str]) -> str:
    """Returns what names the unfinished state of trials side by side: other versions have other states."""
    import flax
    import jax
    import optax

    text = "".join([*digests, jax.__version__, flax.__version__, optax.__version__, jax.default_backend()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lane(planned: PlannedTrial, store: Store) -> Lane:
    """Returns the arrays of a trial as it begins."""
    import jax

    trial = planned.trial
    key = stream_key("init", trial.stream_seed("init"))
    if trial.procedure.init == "random":
        variables = init_variables(planned.model, key, planned.size_px)
    else:
        weights = (
            store.weights_path(planned.source.digest, "sources") if planned.source.trained else planned.source.path
        )
        assert weights is not None
        variables, _ = load(weights, planned.model, "new", key, planned.size_px)
    return Lane(
        params=paths.flatten(variables["params"]),
        batch_stats=paths.flatten(variables.get("batch_stats", {})),
        hparams=make_hparams(trial.procedure, planned.layers),
        labels=planned.images.labels,
        train=planned.split.train,
        val=planned.split.val,
        test=planned.split.test,
        order_seed=trial.stream_seed("order"),
        augment_key=jax.random.key_data(stream_key("augment", trial.stream_seed("augment"))),
    )


def stream_key(stream: str, seed: int) -> Any:
    """Returns the JAX key of a named stream of random numbers."""
    import jax

    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))


def _describe(
    planned: PlannedTrial, outcome: Outcome, changes: Mapping[str, Any], executor: str, width: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays, record) of a finished trial, as the store keeps them."""
    arrays = {name: np.asarray(values) for name, values in outcome.curves.items()}
    arrays |= {"test_rows": planned.split.test, "test_predictions": outcome.test_predictions}
    for level in ("leaf", "filter"):
        for name, change in changes.get(level, {}).items():
            arrays |= {f"{level}/{measure}/{name}": np.asarray(value) for measure, value in change.items()}
    split = planned.split
    record = {
        "schema": cfg.SCHEMA_VERSION,
        "status": "diverged" if outcome.diverged else "done",
        "seed": planned.trial.seed,
        "val_accuracy": outcome.val_accuracy,
        "test_accuracy": outcome.test_accuracy,
        "selected_epoch": outcome.selected_epoch,
        "seconds": round(outcome.seconds, 3),
        "executor": executor,
        "width": width,
        "source": planned.source.digest if planned.starts_from_source else "",
        "split": split.digest,
        "images": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "identity": planned.identity,
        "trial": cfg.to_dict(planned.trial),
    }
    if changes:
        record["changes"] = {
            layer: {measure: _number(value) for measure, value in changes["layer"][layer].items()}
            for layer in planned.layer_names
        }
    return arrays, record


def _body_change(before: Mapping[str, Any], after: Mapping[str, Any], model: Network) -> float | None:
    """Returns ||w - w0|| / ||w0|| over all parameters below the head."""
    names = [name for name in before if not name.startswith(model.units[-1] + "/")]
    moved = sum(
        float(np.square(np.asarray(after[n], np.float64) - np.asarray(before[n], np.float64)).sum()) for n in names
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


def _variables(outcome: Outcome) -> dict[str, Any]:
    return {"params": paths.unflatten(outcome.params), "batch_stats": paths.unflatten(outcome.batch_stats)}


def _final_manifest(trial: PlannedTrial) -> Manifest:
    return Manifest(
        f"{trial.digest}.safetensors",
        "",
        trial.model.architecture,
        trial.program.phases[-1].preprocessing,
        trial.images.class_names,
        f"fine-tuned by jaxft, trial {trial.digest}",
    )


class StoredCheckpoints:
    """Checkpoints of one piece of work in a store."""

    def __init__(self, store: Store, key: str):
        self.store, self.key = store, key

    def latest(self) -> int | None:
        """Returns the epoch last saved."""
        return self.store.latest_checkpoint(self.key)

    def load(self, epoch: int, like: Any) -> Any:
        """Returns what was saved at `epoch`."""
        return self.store.load_checkpoint(self.key, epoch, like)

    def save(self, epoch: int, tree: Any) -> None:
        """Keeps `tree`."""
        self.store.save_checkpoint(self.key, epoch, tree)


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
            loaded = [load(store.weights_path(t.digest), t.model)[0]["params"] for t in trials]
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
