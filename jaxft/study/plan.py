"""From a config to a plan: every trial with everything resolved, before the first step.

Weights, images, splits, classes, shapes, rules and digests: whatever cannot work is an error here.
"""

import dataclasses
import functools
import hashlib
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxft import config as cfg
from jaxft.config import FROZEN, Images, LayerRate, Study, Trial, with_fields
from jaxft.config.identity import identity
from jaxft.core import paths
from jaxft.core.errors import UserError, say_warnings
from jaxft.core.rules import Match
from jaxft.data import Drawn, ImageSet, Split, draw
from jaxft.data.readers.image_sets import channel_statistics
from jaxft.data.sampling.drawing import read_images
from jaxft.data.sampling.factors import choose_classes, feature_nearness, name_nearness
from jaxft.data.streaming import brought
from jaxft.features.activations import class_means, make_feature_cache
from jaxft.features.classifiers import Readout, make_readout
from jaxft.models import Network, Preprocessing, create_model, unit_of
from jaxft.ops.pooling import Look
from jaxft.study.loop import Program, make_program
from jaxft.training.adapters import adapter_shape, check_pairs, is_adapter, kernel_of
from jaxft.training.initialization import (
    adaptable,
    check_head,
    copied_units,
    draws,
    draws_body,
    grown_model,
    is_new,
    tuning_rules,
)
from jaxft.training.optimizers import make_hparams, resolve_layers
from jaxft.training.phases import make_phases
from jaxft.weights.files import (
    Manifest,
    expected_shapes,
    is_head,
    load,
    load_flat,
    num_classes_of,
    parameter_names,
    read_file,
)

UNEVEN = 1.2
STREAMS = tuple(stream.name for stream in dataclasses.fields(cfg.Streams))


@dataclass(frozen=True)
class PlannedSource:
    """Where trials start: a weight file, a network trained first, or nothing but an architecture.

    `trained` is the trial that trains it, `digest` what identifies its weights (empty for nothing). They are those
    after a pass, `epoch`, or where that is none those that it selects.
    """

    model: str
    preprocessing: Preprocessing
    manifest: Manifest | None = None
    path: str | None = None
    trained: "PlannedTrial | None" = None
    epoch: int | None = None

    @property
    def digest(self) -> str:
        """Returns what identifies the weights: a file's sha256 or a source trial's digest; empty for none."""
        if self.trained is not None and self.epoch is not None:
            return cfg.digest({"source": self.trained.digest, "epoch": self.epoch})
        if self.trained is not None:
            return self.trained.digest
        return self.manifest.sha256 if self.manifest else ""


@dataclass(frozen=True, eq=False)
class PlannedTrial:
    """A trial with everything resolved.

    `layers` are its parameters, and what the rules say of them. `readout` is the classifier of features
    where it is that which is trained; then the program has no phases.
    """

    trial: Trial
    identity: Mapping[str, Any]
    source: PlannedSource
    drawn: Drawn
    model: Network
    layers: Mapping[str, Match[LayerRate]]
    program: Program
    readout: Readout | None = None

    @functools.cached_property
    def digest(self) -> str:
        """Returns 16 hexadecimal digits that name the trial, the same in every process and version."""
        return cfg.digest(self.identity)

    @property
    def images(self) -> ImageSet:
        """Returns the images, with true labels."""
        return self.drawn.images

    @property
    def split(self) -> Split:
        """Returns which images are trained, selected and tested on, and the labels that it sees."""
        return self.drawn.split

    @property
    def body(self) -> tuple[str, ...]:
        """Returns the names of its parameters below the head."""
        head = self.model.units[-1] + "/"
        return tuple(name for name in self.layers if not name.startswith(head))

    def base(self, names: Iterable[str]) -> tuple[str, ...]:
        """Returns what identifies the values of leaves below the head at the start, and which are the source's."""
        training, seed = self.trial.training, self.trial.stream_seed("init")
        copied = copied_units(training, self.model, tuple(self.layers))
        drawn = (
            f"matched {self.source.digest} {seed}" if training.initialization.start == "matched" else f"random {seed}"
        )
        all_units = self.model.units
        units = {unit_of(name, all_units) for name in names if not is_new(training, name)}
        theirs, others = sorted(units.intersection(copied)), sorted(units.difference(copied))
        grown = [f"grown {seed}"] * any(is_new(training, name) for name in names)
        of_source = [self.source.digest, *theirs * bool(others)] * bool(theirs)
        return (*of_source, *[drawn] * bool(others), *grown)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every leaf by name, with its collection, those that the network does not have too."""
        shapes, rank = dict(expected_shapes(self.model, self.size_px)), self.trial.training.layers.lora_rank
        for name in filter(is_adapter, self.layers):
            shapes[f"params/{name}"] = adapter_shape(name, shapes[f"params/{kernel_of(name)}"], rank)
        return shapes

    @property
    def size_px(self) -> int:
        """Returns the side of what the network sees of the images."""
        return (self.readout or self.program.phases[-1]).preprocessing.size_px

    @property
    def resize_px(self) -> int | None:
        """Returns the side of the images where it is not what the network sees, but larger."""
        side = self.images.images.shape[1]
        return None if side == self.size_px else side

    @property
    def streams_used(self) -> tuple[str, ...]:
        """Returns the streams of random numbers that the trial's result depends on."""
        trains_source = self.starts_from_source and self.source.trained is not None
        folds = self.trial.target.val_fraction > 0
        if self.readout is not None:
            drawn = ["init"] * draws_body(self.trial.training, self.model, tuple(self.layers))
            return (*["split"] * _uses_split(self.trial), *["source"] * trains_source, *drawn, *["fold"] * folds)
        last = self.program.phases[-1]
        random_images = last.changes_images or last.regularisers.is_random
        optional = ["augment"] * random_images + ["fold"] * folds + ["source"] * trains_source
        drawn = ["init"] * draws(self.trial.training, self.model, tuple(self.layers))
        return (*["split"] * _uses_split(self.trial), *drawn, "order", *optional)

    @property
    def starts_from_source(self) -> bool:
        """Tells whether the trial's start depends on its source's weights."""
        return self.trial.training.initialization.start != "random"

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Returns the names of the layers in the order in which the network uses them."""
        return tuple(dict.fromkeys(map(paths.layer_of, parameter_names(self.model, self.size_px))))

    @property
    def num_bytes(self) -> int:
        """Returns the size of the network's variables, float32."""
        return 4 * sum(math.prod(shape) for shape in expected_shapes(self.model, self.size_px).values())


@dataclass(frozen=True)
class Group:
    """Trials that share a compiled program and the images; `key` names the group in the store."""

    key: str
    trials: tuple[PlannedTrial, ...]

    @property
    def program(self) -> Program:
        """Returns the program that all of them run."""
        return self.trials[0].program

    @property
    def looks(self) -> tuple[Look, ...]:
        """Returns what its classifiers are of, which one pass of the network makes for all of them."""
        found = {trial.readout.look for trial in self.trials if trial.readout}
        return tuple(sorted(found, key=lambda look: (look.unit, look.pooling, look.below or "")))


@dataclass(frozen=True)
class Plan:
    """A study with everything resolved: trials in order, their groups, and the sources to train first."""

    study: Study
    trials: tuple[PlannedTrial, ...]
    settings: tuple[Mapping[str, Any], ...]
    groups: tuple[Group, ...] = field(repr=False)
    sources: tuple[PlannedTrial, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def num_programs(self) -> int:
        """Returns how many training programs are compiled, those of the sources included."""
        return len({phase for trial in (*self.trials, *self.sources) for phase in trial.program.phases})

    def levels(self, trial: Trial) -> dict[str, Any]:
        """Returns the level of each factor in a trial."""
        return {name: cfg.get_at(trial, name) for name in self.study.factor_names()}

    def effective_rates(self) -> list[float]:
        """Returns the head's effective learning rate in each setting."""
        of_levels = {
            tuple(self.levels(t.trial).items()): t.trial.training.optimizer.effective_rate for t in self.trials
        }
        return [of_levels[tuple(levels.items())] for levels in self.settings]

    def varied(self) -> tuple[str, ...]:
        """Returns the streams of random numbers that vary over the seeds of a setting, of those that are used."""
        found = []
        for stream in STREAMS:
            seeds: dict[Trial, set[int]] = {}
            for trial in self.trials:
                if stream in trial.streams_used:
                    same = dataclasses.replace(trial.trial, seed=0)
                    seeds.setdefault(same, set()).add(trial.trial.stream_seed(stream))
            if any(len(drawn) > 1 for drawn in seeds.values()):
                found.append(stream)
        return tuple(found)

    def snapshots(self, source: PlannedTrial) -> tuple[tuple[int, str], ...]:
        """Returns after which passes, counted from 1, a source's weights are kept, and what identifies them then."""
        starts = [trial.source for trial in self.trials if trial.starts_from_source]
        kept = {s.epoch: s.digest for s in starts if s.trained is source and s.epoch is not None}
        return tuple(sorted(kept.items()))

    def weights_line(self) -> str:
        """Returns which final weights are kept, and how much disk they take."""
        policy = self.study.execution.keep_weights.replace("_", " ")
        return f"weights kept: {policy}, {self.weights_bytes() / 1e6:.1f} MB"

    def weights_bytes(self) -> int:
        """Returns how much disk the final weights take that the policy keeps."""
        policy = self.study.execution.keep_weights
        kept = self.trials if policy == "all" else _one_a_setting(self) if policy == "best_seed" else ()
        return sum(trial.num_bytes for trial in kept if trial.readout is None)

    def record(self, origin: cfg.ConfigFile) -> dict[str, Any]:
        """Returns the plan as the store keeps it and the report reads it."""
        settings = [list(level.items()) for level in self.settings]
        return {
            "title": self.study.title,
            "docstring": origin.docstring,
            "config": cfg.to_dict(self.study),
            "config_path": origin.path,
            "overrides": list(origin.overrides),
            "factors": list(self.study.factor_names()),
            "settings": [cfg.to_dict(dict(levels)) for levels in self.settings],
            "layers": list(dict.fromkeys(layer for trial in self.trials for layer in trial.layer_names)),
            "chance": 1 / self.trials[0].model.num_classes
            if len({t.model.num_classes for t in self.trials}) == 1
            else None,
            "uneven": any(map(is_uneven, self.trials)),
            "varied": list(self.varied()),
            "effective_rates": self.effective_rates(),
            "warnings": list(self.warnings),
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


def is_uneven(trial: PlannedTrial) -> bool:
    """Tells whether some class has many more test images than another, so that accuracy speaks of few classes."""
    counts = np.unique(trial.images.labels[trial.split.test], return_counts=True)[1]
    return len(counts) > 0 and bool(counts.max() > UNEVEN * counts.min())


def _one_a_setting(plan: Plan) -> tuple[PlannedTrial, ...]:
    first: dict[Any, PlannedTrial] = {}
    for trial in plan.trials:
        first.setdefault(dataclasses.replace(trial.trial, seed=0), trial)
    return tuple(first.values())


# --- planning ---------------------------------------------------------------------------------------------------


def make_plan(study: Study, say: Callable[[str], None] = say_warnings) -> Plan:
    """Returns the study's trials, settings, groups and sources, everything resolved and checked.

    `say` is told how far images are that have to be decoded first.

    Raises a `UserError` for whatever cannot work: unknown models, unreadable weights or images, too few images,
    rules that match nothing.
    """
    planner = _Planner(study.execution, say)
    planned: dict[str, PlannedTrial] = {}
    for trial in map(planner.trial, study.trials()):
        planned.setdefault(trial.digest, trial)  # what two settings have in common is run once, for the first
    trials = tuple(planned.values())
    levels = [tuple((n, cfg.get_at(t.trial, n)) for n in study.factor_names()) for t in trials]
    groups: dict[str, list[PlannedTrial]] = {}
    for trial in trials:
        groups.setdefault(_group_key(trial), []).append(trial)
    starts = [trial.source.trained for trial in trials if trial.source.trained and trial.starts_from_source]
    sources = {source.digest: source for source in starts}
    drawn: dict[Any, PlannedTrial] = {}  # a trial of those that have the same images, and start from the same source's
    for trial in trials:
        drawn.setdefault((trial.trial.target, trial.split.digest, trial.starts_from_source, trial.source.digest), trial)
    return Plan(
        study,
        trials,
        tuple(dict(level) for level in dict.fromkeys(levels)),
        tuple(Group(key, tuple(members)) for key, members in groups.items()),
        tuple(sources.values()),
        tuple(dict.fromkeys(warning for trial in drawn.values() for warning in (*overlap(trial), *left_out(trial)))),
    )


def overlap(trial: PlannedTrial) -> list[str]:
    """Returns a warning where images that a trial is tested on are among those its source was trained on here."""
    source = trial.source.trained
    if source is None or not trial.starts_from_source:
        return []

    def contents(images: ImageSet, rows: np.ndarray) -> set[bytes]:
        return {hashlib.sha256(images.images[row].tobytes()).digest() for row in rows}

    seen = contents(trial.images, trial.split.test) & contents(source.images, source.split.train)
    if not seen:
        return []
    return [
        f"{len(seen)} of the {len(trial.split.test)} test images of {trial.trial.target.data!r} are among those that "
        "the source is trained on: the accuracy of pretrained trials is too high."
    ]


def left_out(trial: PlannedTrial) -> list[str]:
    """Returns a warning where pictures that cannot be used were left out of a trial's images, or of its source's."""
    found = []
    for planned in (trial, trial.source.trained if trial.starts_from_source else None):
        if planned is not None and planned.images.skipped:
            skipped, data = planned.images.skipped, planned.trial.target.data
            name, why = skipped[0]
            found.append(f"{len(skipped)} pictures of {data!r} cannot be used and are left out: '{name}' ({why}), ...")
    return found


class _Planner:
    """Resolves trials, each image set, split, source and network once."""

    def __init__(self, execution: cfg.Execution, say: Callable[[str], None]):
        self.execution, self.say = execution, say
        self.image_sets: dict[Any, ImageSet] = {}
        self.draws: dict[Any, Drawn] = {}
        self.sources: dict[Any, PlannedSource] = {}
        self.trained: dict[str, PlannedTrial] = {}

    def trial(self, trial: Trial) -> PlannedTrial:
        """Returns a trial of the study, its source resolved too."""
        near_target = trial.source.images is not None and trial.source.images.class_choice != "random"
        key = trial.source, trial.stream_seed("source"), self.target_key(trial) if near_target else None
        if key not in self.sources:
            self.sources[key] = self.source(trial)
        return self.resolved(trial, self.sources[key], "target")

    def resolved(self, trial: Trial, source: PlannedSource, where: str, drawn: Drawn | None = None) -> PlannedTrial:
        """Returns a trial from `source`; `where` names the config's field that holds its images."""
        drawn = drawn or self.target(trial, trial.target.size_px or source.preprocessing.size_px)
        images, split = drawn.images, drawn.split
        is_to_be_tested = trial.target.tested and trial.target.manifest is None
        if where == "target" and is_to_be_tested and not len(split.test):
            raise UserError(
                f"no images of {trial.target.data!r} are left over to test on; "
                f"{'lower' if trial.target.train_per_class else 'give'} 'target.train_per_class'."
            )
        size_px = _seen_px(trial, images, where)
        preprocessing = dataclasses.replace(source.preprocessing, size_px=size_px)
        model = create_model(grown_model(trial.source.model, trial.training), len(images.class_names))
        model = model.computing(self.execution.precision)
        names = parameter_names(model, size_px)
        identified = identity(trial, self.execution, _content(trial, source, drawn, preprocessing))
        training, eval_batch_size = trial.training, self.execution.eval_batch_size
        if training.classifier.kind != "network":
            counts = len(split.train), len(split.val), len(split.test)
            readout = make_readout(model, training, preprocessing, counts, self.execution.feature_cache_bytes)
            resting = {name: Match[LayerRate](FROZEN, ".*") for name in names}
            nothing = make_program((), training.selection.weights, eval_batch_size, len(split.train))
            return PlannedTrial(trial, identified, source, drawn, model, resting, nothing, readout)
        check_head(training, model)
        first = tuning_rules(training, model, names)
        layers = resolve_layers(training, adaptable(training, names), first)
        check_pairs({name for name, match in layers.items() if match.value == FROZEN})
        # A frozen change of a kernel is none.
        layers = {n: match for n, match in layers.items() if match.value != FROZEN or not is_adapter(n)}
        if all(match.value == FROZEN for match in layers.values()):
            raise UserError(
                "the rules freeze every parameter, so there is nothing to train; leave 'head/.*' out of them."
            )
        stats = [
            n.removeprefix("batch_stats/") for n in expected_shapes(model, size_px) if n.startswith("batch_stats/")
        ]
        phases = make_phases(model, preprocessing, training, layers, stats, len(split.train), self.execution.remat)
        if any(phase.num_steps == 0 for phase in phases):
            raise UserError(
                f"{training.schedule.epochs:g} epochs of {len(split.train)} images make no full batch of "
                f"{training.batches.size}; lower 'training.batches.size' or raise the epochs, or give 'steps'."
            )
        if any(phase.regularisers.distillation for phase in phases):
            _check_own_head(source, size_px)
        program = make_program(
            phases, training.selection.weights, eval_batch_size, len(split.train), training.selection.test_crops
        )
        return PlannedTrial(trial, identified, source, drawn, model, layers, program)

    def source(self, trial: Trial) -> PlannedSource:
        """Returns what a trial starts from: the file is read, or the trial that trains it is planned."""
        source = trial.source
        if source.weights is not None:
            network = create_model(source.model, 2)
            _, manifest = load_flat(source.weights, network, head="new")  # every mismatch is found now
            return PlannedSource(source.model, manifest.preprocessing, manifest, source.weights)
        if source.images is None:
            return PlannedSource(source.model, create_model(source.model, 2).preprocessing)
        usual = create_model(source.model, 2).preprocessing
        native = None if source.images.data == "digits" or source.images.data.endswith(".npz") else usual.size_px
        # A seed of its own kind: a random start of a trial must not be that of the source it is compared with.
        seed = zlib.crc32(f"source:{trial.stream_seed('source')}".encode())
        size_px = source.images.size_px or native
        spec = source.images
        if spec.class_choice != "random":
            spec = self.near_target(trial, read_images(spec, size_px, self.say, self.image_sets), seed)
        drawn = dataclasses.replace(self.draw(spec, seed, size_px, "source.images"), asked=source.images)
        mean, std = channel_statistics(drawn.images.images, drawn.split.train)
        preprocessing = Preprocessing(
            source.training.augmentation.crop.size_px or drawn.images.images.shape[1],
            tuple(round(float(value), 4) for value in mean),
            tuple(round(max(float(value), 1e-4), 4) for value in std),
        )
        untrained = PlannedSource(source.model, preprocessing)
        pretraining = Trial(
            cfg.Source(source.model),
            source.images,
            with_fields(source.training, {"initialization.start": "random"}),
            seed=seed,
        )
        planned = self.resolved(pretraining, untrained, "source.images", drawn)
        if planned.digest in self.trained:  # the same, of which other weights are taken
            planned = self.trained[planned.digest]
        self.trained[planned.digest] = planned
        if source.epoch is not None and source.epoch > planned.program.num_epochs:
            raise UserError(
                f"config field 'source.epoch' is {source.epoch}, but the source is trained for "
                f"{planned.program.num_epochs} epochs; raise 'source.training.schedule.epochs'."
            )
        return PlannedSource(source.model, preprocessing, trained=planned, epoch=source.epoch)

    def near_target(self, trial: Trial, images: ImageSet, seed: int) -> Images:
        """Returns the source's images with the classes chosen that are nearest to the target's, or farthest."""
        spec = trial.source.images
        assert spec is not None
        names, similarity = images.class_names, spec.similarity
        if similarity.by != "features":
            target = self.target(trial, trial.target.size_px or images.images.shape[1])
            tables = spec.synsets, trial.target.synsets
            nearness = name_nearness(names, target.kept.class_names, similarity.by, *tables)
        else:
            assert similarity.weights is not None
            model = create_model(similarity.model or trial.source.model, 2)
            variables, manifest = load(similarity.weights, model, head="new")
            size_px = manifest.preprocessing.size_px
            cache = make_feature_cache(self.execution)

            def means(images: ImageSet, rows: np.ndarray) -> np.ndarray:
                labels, pixels = images.labels[rows], brought(images.images, self.execution.device_data_bytes)
                fingerprint = images.fingerprint
                return class_means(model, manifest.preprocessing, variables, pixels, fingerprint, rows, labels, cache)

            target = self.target(trial, size_px)  # of which the images to train on are looked at, and no others
            own = read_images(spec, size_px, self.say, self.image_sets)
            to_train = np.flatnonzero(~np.isin(own.parts, ("val", "test")))
            for label in set(range(len(names))).difference(own.labels[to_train].tolist()):
                raise UserError(
                    f"class {names[label]!r} of {spec.data!r} has no images to train on, and so no mean feature; "
                    "leave it out of 'source.images.classes'."
                )
            nearness = feature_nearness(names, means(own, to_train), means(target.kept, target.split.train))
        return choose_classes(spec, names, seed, "source.images", nearness)

    def target(self, trial: Trial, size_px: int) -> Drawn:
        """Returns what is drawn of a trial's own images."""
        return self.draw(trial.target, trial.stream_seed("split"), size_px, "target", trial.stream_seed("fold"))

    def target_key(self, trial: Trial) -> Any:
        """Returns what decides which target images a trial has."""
        return trial.target, trial.stream_seed("split"), trial.stream_seed("fold")

    def draw(self, spec: Images, seed: int, size_px: int | None, where: str, fold: int = 0) -> Drawn:
        """Returns what is drawn of `spec` by a seed, once."""
        key = spec, seed, size_px, where, fold
        if key not in self.draws:
            self.draws[key] = draw(spec, seed, size_px, where, fold, self.say, self.image_sets)
        return self.draws[key]


def _uses_split(trial: Trial) -> bool:
    """Tells whether the stream 'split' decides anything: it does not for a manifest whose images are not shuffled."""
    return trial.target.manifest is None or trial.target.shuffle_px is not None


def _seen_px(trial: Trial, images: ImageSet, where: str) -> int:
    """Returns the side of what the network sees of the images; raises a `UserError` where they are too small."""
    side, crop_px = images.images.shape[1], trial.training.augmentation.crop.size_px
    training = "training" if where == "target" else "source.training"
    if crop_px is not None and crop_px > side:
        raise UserError(
            f"config field '{training}.augmentation.crop.size_px' is {crop_px}, but the images are {side} px; "
            f"give '{where}.size_px' {crop_px} or more."
        )
    if crop_px == side and trial.training.selection.test_crops == "ten":
        raise UserError(
            f"config field '{training}.selection.test_crops' is 'ten', but '{training}.augmentation.crop.size_px' "
            f"{crop_px} is the images' own size; give '{where}.size_px' more, such as {round(side * 8 / 7)}."
        )
    return crop_px or side


def _check_own_head(source: PlannedSource, size_px: int) -> None:
    """Checks that the source has a classifier that fits images of a size, whose outputs distillation records."""
    model = create_model(source.model, 2)
    if source.path is not None and num_classes_of(read_file(source.path, model)[0], model) is None:
        raise UserError(
            "'training.regularization.distillation.strength' keeps what the source's own head says, but "
            f"{source.path!r} has no classifier; leave it out."
        )
    own_px = source.preprocessing.size_px
    own, ours = (
        {name: shape for name, shape in expected_shapes(model, px).items() if is_head(name, model)}
        for px in (own_px, size_px)
    )
    if own != ours:
        raise UserError(
            "'training.regularization.distillation.strength' keeps what the source's own head says, which is for "
            f"images of {own_px} px; give 'target.size_px' {own_px}, or leave it out."
        )


def _content(trial: Trial, source: PlannedSource, drawn: Drawn, preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns digests of what a trial's config only names, for its identity."""
    content = {
        "preprocessing": dataclasses.asdict(preprocessing),
        "images": drawn.images.fingerprint,
        "split": drawn.split.digest,
    }
    return content if trial.training.initialization.start == "random" else content | {"weights": source.digest}


def _group_key(trial: PlannedTrial) -> str:
    """Returns what trials share that run side by side: program, images, and the start of all that any phase freezes.

    Classifiers of features share the network as it starts.
    """
    import jax

    if trial.readout is not None:
        network = trial.model.architecture, trial.model.precision, trial.readout.preprocessing, trial.readout.crop_px
        text = repr(("features", network, trial.images.fingerprint, trial.base(trial.body)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    stats = [n.partition("/")[2] for n in expected_shapes(trial.model, trial.size_px) if n.startswith("batch_stats/")]
    live = [{*phase.trainable, *phase.tracked} for phase in trial.program.phases]
    frozen = [n for n in (*trial.layers, *stats) if not all(n in names for names in live) and not is_adapter(n)]
    in_body = [name for name in frozen if not name.startswith(trial.model.units[-1] + "/")]
    start = trial.base(in_body)
    head: Any = None
    if len(in_body) < len(frozen):
        how = trial.trial.training.initialization.head
        head = trial.digest if how == "class_means" else (how, trial.trial.stream_seed("init"))
    views = trial.trial.stream_seed("augment") if trial.trial.training.augmentation.views else None
    towards = [trial.source.digest] * any(phase.regularisers.needs_source for phase in trial.program.phases)
    # What is stacked must be alike: which numbers there are, also of what cannot act, and the sizes of changes.
    numbers = jax.tree.structure(make_hparams(trial.trial.training, trial.layers))
    sizes = [trial.shapes[f"params/{name}"] for name in trial.layers if is_adapter(name)]
    text = repr((trial.program, trial.images.fingerprint, start, head, views, *towards, numbers, sizes))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
