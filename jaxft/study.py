"""From a config to results: what is to be run, and running what is missing.

`make_plan` resolves everything before the first step: weights, images, splits, classes, shapes, rules, digests.
`run_plan` runs what the store does not hold yet.
"""

import dataclasses
import functools
import hashlib
import math
import traceback
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from jaxft import config as cfg
from jaxft import paths
from jaxft.analysis import parameters
from jaxft.config import FROZEN, Images, LayerRate, Study, Trial
from jaxft.data import ImageSet, Split, draw_split, load_images
from jaxft.data.batches import epoch_ends
from jaxft.errors import UserError
from jaxft.execute import Lane, Outcome, Program, choose_executor, run_chunk
from jaxft.models import Network, Preprocessing, create_model
from jaxft.optim import make_hparams, resolve_layers
from jaxft.paths import Match
from jaxft.store import Store
from jaxft.train import make_phases
from jaxft.weights import Manifest, expected_shapes, init_variables, load, read_file, save_weights

MOST_PAIR_BYTES = 4_000_000_000


class Progress(Protocol):
    """Is told how the work goes on, in epochs of trials."""

    def begin(self, total_epochs: int, total_trials: int, trials_done: int) -> None:
        """Says how much is to be done."""

    def epoch(self, phase: str, trials: int, line: str) -> None:
        """Says that `trials` trials ended an epoch."""

    def trials(self, count: int) -> None:
        """Says that `count` trials are stored."""

    def say(self, line: str) -> None:
        """Says a line that stays."""


@dataclass(frozen=True)
class PlannedSource:
    """Where trials start: a weight file, a network trained first, or nothing but an architecture.

    `trained` is the trial that trains it, `digest` what identifies its weights (empty for nothing).
    """

    model: str
    preprocessing: Preprocessing
    manifest: Manifest | None = None
    path: str | None = None
    trained: "PlannedTrial | None" = None

    @property
    def digest(self) -> str:
        """Returns what identifies the weights: a file's sha256 or a source trial's digest; empty for none."""
        if self.trained is not None:
            return self.trained.digest
        return self.manifest.sha256 if self.manifest else ""


@dataclass(frozen=True, eq=False)
class PlannedTrial:
    """A trial with everything resolved.

    `base` identifies the weights it starts from, `setting` its combination of levels.
    """

    trial: Trial
    digest: str
    identity: Mapping[str, Any]
    source: PlannedSource
    images: ImageSet
    split: Split
    model: Network
    layers: Mapping[str, Match[LayerRate]]
    program: Program

    @property
    def base(self) -> str:
        """Returns what identifies the weights below the head at the start."""
        if self.trial.procedure.init == "pretrained":
            return self.source.digest
        return f"random {self.trial.stream_seed('init')}"

    @property
    def size_px(self) -> int:
        """Returns the side of the images."""
        return self.images.images.shape[1]


@dataclass(frozen=True)
class Group:
    """Trials that share a compiled program and the images; `key` names the group in the store."""

    key: str
    trials: tuple[PlannedTrial, ...]

    @property
    def program(self) -> Program:
        """Returns the program that all of them run."""
        return self.trials[0].program


@dataclass(frozen=True)
class Plan:
    """A study with everything resolved: trials in order, their groups, and the sources to train first."""

    study: Study
    trials: tuple[PlannedTrial, ...]
    settings: tuple[Mapping[str, Any], ...]
    groups: tuple[Group, ...] = field(repr=False)
    sources: tuple[PlannedTrial, ...] = field(repr=False)

    @property
    def num_programs(self) -> int:
        """Returns how many training programs are compiled, those of the sources included."""
        return len({phase for trial in (*self.trials, *self.sources) for phase in trial.program.phases})

    def levels(self, trial: Trial) -> dict[str, Any]:
        """Returns the level of each factor in a trial."""
        return {name: cfg.get_at(trial, name) for name in self.study.factor_names()}

    def weights_line(self) -> str:
        """Returns which final weights are kept, and how much disk they take."""
        policy = self.study.execution.keep_weights.replace("_", " ")
        return f"weights kept: {policy}, {self.weights_bytes() / 1e6:.1f} MB"

    def weights_bytes(self) -> int:
        """Returns how much disk the final weights take that the policy keeps."""
        policy = self.study.execution.keep_weights
        kept = self.trials if policy == "all" else _one_a_setting(self) if policy == "best_seed" else ()
        return sum(4 * _num_values(trial.model, trial.size_px) for trial in kept)

    def record(self, origin: cfg.ConfigFile) -> dict[str, Any]:
        """Returns the plan as the store keeps it and the report reads it."""
        settings = [list(level.items()) for level in self.settings]
        first = self.trials[0]
        return {
            "title": self.study.title,
            "docstring": origin.docstring,
            "config": cfg.to_dict(self.study),
            "config_path": origin.path,
            "overrides": list(origin.overrides),
            "factors": list(self.study.factor_names()),
            "settings": [cfg.to_dict(dict(levels)) for levels in self.settings],
            "layers": list(dict.fromkeys(paths.layer_of(n) for n in parameter_names(first.model, first.size_px))),
            "chance": 1 / first.model.num_classes if len({t.model.num_classes for t in self.trials}) == 1 else None,
            "varied": [
                stream.name
                for stream in dataclasses.fields(cfg.Streams)
                if len({trial.trial.stream_seed(stream.name) for trial in self.trials}) > 1
            ],
            "source": {"trials": [source.digest for source in self.sources]},
            "trials": [
                {
                    "trial": trial.digest,
                    "setting": settings.index(list(self.levels(trial.trial).items())),
                    "factors": cfg.to_dict(self.levels(trial.trial)),
                    "seed": trial.trial.seed,
                }
                for trial in self.trials
            ],
        }


# --- planning ---------------------------------------------------------------------------------------------------


def make_plan(study: Study) -> Plan:
    """Returns the study's trials, settings, groups and sources, everything resolved and checked.

    Raises a `UserError` for whatever cannot work: unknown models, unreadable weights or images, too few images,
    rules that match nothing.
    """
    planner = _Planner(study.execution.eval_batch_size)
    planned = {trial.digest: trial for trial in map(planner.trial, study.trials())}
    trials = tuple(planned.values())
    levels = [tuple((n, cfg.get_at(t.trial, n)) for n in study.factor_names()) for t in trials]
    groups: dict[str, list[PlannedTrial]] = {}
    for trial in trials:
        groups.setdefault(_group_key(trial), []).append(trial)
    sources = {t.source.trained.digest: t.source.trained for t in trials if t.source.trained and _starts_from_source(t)}
    return Plan(
        study,
        trials,
        tuple(dict(level) for level in dict.fromkeys(levels)),
        tuple(Group(key, tuple(members)) for key, members in groups.items()),
        tuple(sources.values()),
    )


def _starts_from_source(trial: PlannedTrial) -> bool:
    return trial.trial.procedure.init == "pretrained"


class _Planner:
    """Resolves trials, each image set, split, source and network once."""

    def __init__(self, eval_batch_size: int):
        self.eval_batch_size = eval_batch_size
        self.image_sets: dict[Any, ImageSet] = {}
        self.splits: dict[Any, Split] = {}
        self.sources: dict[Any, PlannedSource] = {}

    def trial(self, trial: Trial, where: str = "target") -> PlannedTrial:
        seed = trial.stream_seed("source")
        source_key = trial.source, seed
        if source_key not in self.sources:
            self.sources[source_key] = self.source(trial.source, seed)
        source = self.sources[source_key]

        images = self.images(trial.target, trial.target.size_px or source.preprocessing.size_px)
        split = self.split(images, trial.target, trial.stream_seed("split"), where)
        if where == "target" and not len(split.test):
            raise UserError(
                f"no images of {trial.target.data!r} are left over to test on; lower 'target.train_per_class'."
            )
        size_px = images.images.shape[1]
        preprocessing = dataclasses.replace(source.preprocessing, size_px=size_px)
        model = create_model(trial.source.model, len(images.class_names))
        names = parameter_names(model, size_px)
        layers = resolve_layers(trial.procedure, names)
        if all(match.value == FROZEN for match in layers.values()):
            raise UserError(
                "the rules freeze every parameter, so there is nothing to train; leave 'head/.*' out of them."
            )
        stats = [
            n.removeprefix("batch_stats/") for n in expected_shapes(model, size_px) if n.startswith("batch_stats/")
        ]
        phases = make_phases(model, preprocessing, trial.procedure, layers, stats, len(split.train))
        if any(phase.num_steps == 0 for phase in phases):
            raise UserError(
                f"{trial.procedure.epochs:g} epochs of {len(split.train)} images make no full batch of "
                f"{trial.procedure.batch_size}; lower 'procedure.batch_size' or raise the epochs."
            )
        epochs = [trial.procedure.probe_epochs] * (len(phases) - 1) + [trial.procedure.epochs]
        ends = tuple(tuple(epoch_ends(len(split.train), e, trial.procedure.batch_size)) for e in epochs)
        program = Program(phases, ends, trial.procedure.select, self.eval_batch_size)
        identity = _identity(trial, source, images, preprocessing)
        return PlannedTrial(trial, cfg.digest(identity), identity, source, images, split, model, layers, program)

    def source(self, source: cfg.Source, seed: int) -> PlannedSource:
        if source.weights is not None:
            network = create_model(source.model, 2)
            _, manifest = read_file(source.weights, network)
            load(source.weights, network, head="new")  # every mismatch is found now
            return PlannedSource(source.model, manifest.preprocessing, manifest, source.weights)
        if source.images is None:
            return PlannedSource(source.model, create_model(source.model, 2).preprocessing)
        usual = create_model(source.model, 2).preprocessing
        native = None if source.images.data == "digits" or source.images.data.endswith(".npz") else usual.size_px
        images = self.images(source.images, source.images.size_px or native)
        split = self.split(images, source.images, seed, "source.images")
        pixels = images.images[split.train].astype(np.float64) / 255
        preprocessing = Preprocessing(
            images.images.shape[1],
            tuple(round(float(value), 4) for value in pixels.mean((0, 1, 2))),
            tuple(round(max(float(value), 1e-4), 4) for value in pixels.std((0, 1, 2))),
        )
        untrained = PlannedSource(source.model, preprocessing)
        pretraining = Trial(
            cfg.Source(source.model),
            source.images,
            dataclasses.replace(source.procedure, init="random"),
            seed=seed,
        )
        self.sources[pretraining.source, pretraining.stream_seed("source")] = untrained
        planned = self.trial(pretraining, "source.images")
        del self.sources[pretraining.source, pretraining.stream_seed("source")]
        return PlannedSource(source.model, preprocessing, trained=planned)

    def images(self, spec: Images, size_px: int | None) -> ImageSet:
        key = spec.data, spec.classes, size_px
        if key not in self.image_sets:
            self.image_sets[key] = load_images(spec, size_px)
        return self.image_sets[key]

    def split(self, images: ImageSet, spec: Images, seed: int, where: str) -> Split:
        key = images.fingerprint, spec.train_per_class, spec.val_per_class, seed
        if key not in self.splits:
            self.splits[key] = draw_split(images, seed, spec.train_per_class, spec.val_per_class, where)
        return self.splits[key]


def _identity(trial: Trial, source: PlannedSource, images: ImageSet, preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns what determines a trial's result: content in the place of paths, seeds in the place of streams."""
    start: dict[str, Any] = {"model": trial.source.model, "preprocessing": dataclasses.asdict(preprocessing)}
    if trial.procedure.init == "pretrained":
        start["weights"] = source.digest
    seeds = {name: trial.stream_seed(name) for name in ("split", "init", "order", "augment")}
    target = cfg.non_default(trial.target)
    return {
        "source": start,
        "target": {
            "images": images.fingerprint,
            **{name: target[name] for name in ("train_per_class", "val_per_class") if name in target},
        },
        "procedure": cfg.non_default(trial.procedure),
        "seeds": seeds,
    }


def _group_key(trial: PlannedTrial) -> str:
    """Returns what trials share that run side by side: program, images, and the start of what is frozen."""
    frozen = any(len(phase.trainable) < len(trial.layers) for phase in trial.program.phases)
    text = repr((trial.program, trial.images.fingerprint, trial.base if frozen else None))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _num_values(model: Network, size_px: int) -> int:
    return sum(math.prod(shape) for shape in expected_shapes(model, size_px).values())


@functools.cache
def parameter_names(model: Network, size_px: int) -> tuple[str, ...]:
    """Returns the names of the parameters in the order in which the network uses them."""
    import jax
    import jax.numpy as jnp

    expected_shapes(model, size_px)  # says it in one sentence where the size does not fit
    names: list[str] = []

    def collect(tree: Mapping[str, Any], prefix: str) -> None:
        for name, node in tree.items():
            if isinstance(node, Mapping):
                collect(node, f"{prefix}{name}/")
            else:
                names.append(prefix + name)

    def init(images: Any) -> None:
        collect(model.init(jax.random.key(0), images)["params"], "")  # a dict in order of use, unlike a pytree

    jax.eval_shape(init, jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32))
    return tuple(names)


# --- running ----------------------------------------------------------------------------------------------------


def run_plan(plan: Plan, store: Store, progress: Progress, debug: bool = False) -> int:
    """Runs what the store does not hold, and returns how many trials failed.

    Sources come first, then groups in the plan's order. A trial that fails is recorded and the others go on.
    """
    import jax.numpy as jnp

    executor, width = choose_executor(plan.study.execution)
    todo = [trial for trial in plan.trials if not store.has("trials", trial.digest)]
    starts = {trial.source.digest for trial in todo if _starts_from_source(trial)}
    sources = [s for s in plan.sources if not store.has("sources", s.digest) and s.digest in starts]
    done = len(plan.trials) - len(todo)
    progress.begin(sum(trial.program.num_epochs for trial in (*sources, *todo)), len(plan.trials), done)
    for source in sources:
        _run_source(source, store, progress, plan.study.execution)
    failed = 0
    for group in plan.groups:
        chunks = _assign_chunks(group, store, executor, width)
        work = [(chunk, [t for t in chunk if not store.has("trials", t.digest)]) for chunk in chunks]
        work = [(chunk, missing) for chunk, missing in work if missing]
        if not work:
            continue
        images = jnp.asarray(group.trials[0].images.images)  # on the device once, for all trials of the group
        for chunk, missing in work:
            try:
                _run_trials(plan, chunk, missing, images, store, progress)
            except UserError:
                raise
            except Exception as error:
                if debug:
                    raise
                failed += len(missing)
                _record_failure(missing, error, executor, store, progress)
    measure_pairs(plan, store, progress)
    return failed


def _record_failure(
    trials: Sequence[PlannedTrial], error: Exception, executor: str, store: Store, progress: Progress
) -> None:
    reason = f"{type(error).__name__}: {error}"
    record = {"status": "failed", "executor": executor, "error": reason, "traceback": traceback.format_exc()}
    for trial in trials:
        store.write_failure(trial.digest, record)
    progress.say(f"{len(trials)} trial{'s' * (len(trials) > 1)} failed: {reason.splitlines()[0]}")


def _assign_chunks(group: Group, store: Store, executor: str, width: int) -> list[list[PlannedTrial]]:
    """Returns the group's trials in chunks that run side by side, as they were first assigned.

    Trials keep their chunk and their place in it for good, and new ones make new chunks, so a study that was killed
    or has grown gives every trial the neighbours, and so the bits, that it had.
    """
    record = store.group(group.key) or {"executor": executor, "width": width, "chunks": []}
    if record["executor"] != executor or record["width"] != width:
        finished = {t.digest for t in group.trials if store.has("trials", t.digest)}
        chunks = [c for c in record["chunks"] if finished.issuperset(c)]
        record = {"executor": executor, "width": width, "chunks": chunks}
    by_digest = {trial.digest: trial for trial in group.trials}
    assigned = {digest for chunk in record["chunks"] for digest in chunk}
    new = [digest for digest in by_digest if digest not in assigned]
    if new:
        record["chunks"] += [new[i : i + width] for i in range(0, len(new), width)]
        store.write_group(group.key, record)
    here = [[by_digest[d] for d in chunk if d in by_digest] for chunk in record["chunks"]]
    return [chunk for chunk in here if chunk]


def _run_source(planned: PlannedTrial, store: Store, progress: Progress, execution: cfg.Execution) -> None:
    """Trains a source network and keeps its weights, with its manifest."""
    import jax.numpy as jnp

    outcome = run_chunk(
        planned.program,
        [_lane(planned, store)],
        jnp.asarray(planned.images.images),
        lambda line: progress.epoch("source", 1, line),
        StoredCheckpoints(store, planned.digest),
        execution.checkpoint_seconds,
    )[0]
    if outcome.diverged:
        raise UserError("training the source diverged; lower 'source.procedure.learning_rate'.")
    manifest = Manifest(
        f"{planned.digest}.safetensors",
        "",
        planned.model.architecture,
        planned.program.phases[0].preprocessing,
        planned.images.class_names,
        f"trained by jaxft, source {planned.digest}",
    )
    with store.writing_weights(planned.digest, "sources") as path:
        save_weights(path, planned.model, _variables(outcome), manifest)
    arrays, record = _describe(planned, outcome, {}, "in_turn", 1)
    store.write("sources", planned.digest, record, arrays)
    store.drop_checkpoint(planned.digest)
    on_val = "" if outcome.val_accuracy is None else f", validation accuracy {outcome.val_accuracy:.1%}"
    progress.say(f"source {planned.digest} trained in {outcome.seconds:.0f} s{on_val}")


def _run_trials(
    plan: Plan,
    chunk: Sequence[PlannedTrial],
    missing: Sequence[PlannedTrial],
    images: Any,
    store: Store,
    progress: Progress,
) -> None:
    """Runs a chunk on `images`, and stores what of it was missing."""
    import jax

    executor, width = choose_executor(plan.study.execution)
    # Lanes keep their places: one that is stored already, or that a short chunk lacks, repeats a missing one.
    lanes = [_lane(trial if trial in missing else missing[0], store) for trial in chunk]
    lanes += [lanes[chunk.index(missing[0])]] * (width - len(lanes))
    key = hashlib.sha256("".join(trial.digest for trial in missing).encode()).hexdigest()[:16]
    outcomes = run_chunk(
        chunk[0].program,
        lanes,
        images,
        lambda line: progress.epoch("train", len(missing), line),
        StoredCheckpoints(store, key),
        plan.study.execution.checkpoint_seconds,
    )
    before = _stack_arrays([lane.params for lane in lanes])
    after = _stack_arrays([outcome.params for outcome in outcomes])
    changes = jax.device_get(
        {
            "layer": parameters.layer_changes(before, after),
            "leaf": parameters.leaf_changes(before, after),
            "filter": parameters.filter_changes(before, after),
        }
    )
    for i, trial in enumerate(chunk):
        if trial not in missing:
            continue
        outcome = outcomes[i]
        own = {
            level: {name: change._asdict() for name, change in _lane_of(changes[level], i).items()} for level in changes
        }
        arrays, record = _describe(trial, outcome, own, executor, width)
        record["relative_change"] = _body_change(lanes[i].params, outcome.params, trial.model)
        if plan.study.execution.keep_weights != "none" and not outcome.diverged:
            with store.writing_weights(trial.digest) as path:
                save_weights(path, trial.model, _variables(outcome), _final_manifest(trial))
        store.write("trials", trial.digest, record, arrays)
        progress.trials(1)
    store.drop_checkpoint(key)
    if plan.study.execution.keep_weights == "best_seed":
        _drop_worse_seeds(plan, store)


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
    layers = dict.fromkeys(paths.layer_of(name) for name in parameter_names(planned.model, planned.size_px))
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
        "source": planned.source.digest,
        "split": split.digest,
        "images": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "identity": planned.identity,
        "trial": cfg.to_dict(planned.trial),
    }
    if changes:
        record["changes"] = {
            layer: {measure: _number(value) for measure, value in changes["layer"][layer].items()} for layer in layers
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


def _stack_arrays(flats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    import jax.numpy as jnp

    return {name: jnp.stack([jnp.asarray(flat[name]) for flat in flats]) for name in flats[0]}


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
        num_bytes = 4 * len(trials) * _num_values(trials[0].model, trials[0].size_px)
        if num_bytes > MOST_PAIR_BYTES:
            progress.say(f"distances between runs left out: the weights of {len(trials)} take {num_bytes / 1e9:.0f} GB")
            continue
        loaded = [load(store.weights_path(t.digest), t.model, size_px=t.size_px)[0]["params"] for t in trials]
        by_layer = jax.device_get(parameters.pairwise_distances(_stack_arrays([paths.flatten(p) for p in loaded])))
        layers = list(dict.fromkeys(paths.layer_of(n) for n in parameter_names(trials[0].model, trials[0].size_px)))
        distances = np.stack([by_layer[layer] for layer in layers]).astype(np.float32)
        record = {"analysis": "pairwise", "trials": digests, "layers": layers}
        store.write("analyses", digest, record, {"distances": distances})


def _one_a_setting(plan: Plan) -> tuple[PlannedTrial, ...]:
    first: dict[Any, PlannedTrial] = {}
    for trial in plan.trials:
        first.setdefault(dataclasses.replace(trial.trial, seed=0), trial)
    return tuple(first.values())


def _drop_worse_seeds(plan: Plan, store: Store) -> None:
    """Keeps, of the trials of each setting, the weights of the one with the best validation accuracy."""
    results = store.results()
    for _, rows in results[results["status"] == "done"].groupby("setting"):
        ranked = rows.sort_values(["val_accuracy", "seed"], ascending=[False, True])
        for digest in ranked["trial"].iloc[1:]:
            store.drop_weights(digest)
