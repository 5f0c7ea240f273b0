"""From a config to a plan: every trial with everything resolved, before the first step.

Weights, images, splits, classes, shapes, rules and digests: whatever cannot work is an error here.
"""

import dataclasses
import functools
import hashlib
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxft import config as cfg
from jaxft import paths
from jaxft.config import FROZEN, Images, LayerRate, Study, Trial
from jaxft.data import Drawn, ImageSet, Split, draw
from jaxft.data.drawing import read_images
from jaxft.data.factors import choose_classes, feature_nearness, name_nearness
from jaxft.data.sources import channel_statistics
from jaxft.errors import UserError
from jaxft.execute import Program, make_program
from jaxft.features import class_means, make_feature_cache
from jaxft.models import Network, Preprocessing, create_model
from jaxft.optim import resolve_layers
from jaxft.paths import Match
from jaxft.pooling import Look
from jaxft.readout import Readout, make_readout, used
from jaxft.train import make_phases
from jaxft.weights import Manifest, expected_shapes, load, read_file

SPLIT_FIELDS = (
    *("train_per_class", "num_images", "imbalance", "val_per_class", "val_fraction", "train_on_val"),
    *("test_fraction", "test_per_class", "tested", "label_noise"),
)
UNEVEN = 1.2
STREAMS = tuple(stream.name for stream in dataclasses.fields(cfg.Streams))


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

    `base` identifies the weights it starts from, `setting` its combination of levels. `readout` is the classifier of
    features where it is that which is trained; then the program has no phases.
    """

    trial: Trial
    digest: str
    identity: Mapping[str, Any]
    source: PlannedSource
    drawn: Drawn
    model: Network
    layers: Mapping[str, Match[LayerRate]]
    program: Program
    readout: Readout | None = None

    @property
    def images(self) -> ImageSet:
        """Returns the images, with true labels."""
        return self.drawn.images

    @property
    def split(self) -> Split:
        """Returns which images are trained, selected and tested on, and the labels that it sees."""
        return self.drawn.split

    @property
    def base(self) -> str:
        """Returns what identifies the weights below the head at the start."""
        if self.starts_from_source:
            return self.source.digest
        return f"random {self.trial.stream_seed('init')}"

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
            start = ["source"] * trains_source + ["init"] * (not self.starts_from_source)
            return (*["split"] * _uses_split(self.trial), *start, *["fold"] * folds)
        random_images = self.program.phases[-1].changes_images
        optional = ["augment"] * random_images + ["fold"] * folds + ["source"] * trains_source
        return (*["split"] * _uses_split(self.trial), "init", "order", *optional)

    @property
    def starts_from_source(self) -> bool:
        """Tells whether the trial starts from its source's weights."""
        return self.trial.procedure.init == "pretrained"

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


def make_plan(study: Study, say: Callable[[str], None] = lambda line: None) -> Plan:
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
    sources = {t.source.trained.digest: t.source.trained for t in trials if t.source.trained and t.starts_from_source}
    return Plan(
        study,
        trials,
        tuple(dict(level) for level in dict.fromkeys(levels)),
        tuple(Group(key, tuple(members)) for key, members in groups.items()),
        tuple(sources.values()),
        tuple(dict.fromkeys(warning for trial in trials for warning in (*overlap(trial), *left_out(trial)))),
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
        model = create_model(trial.source.model, len(images.class_names))
        names = parameter_names(model, size_px)
        procedure, eval_batch_size = trial.procedure, self.execution.eval_batch_size
        if procedure.classifier != "network":
            counts = len(split.train), len(split.val), len(split.test)
            readout = make_readout(model, procedure, preprocessing, counts, self.execution.feature_cache_bytes)
            resting = {name: Match[LayerRate](FROZEN, ".*") for name in names}
            nothing = make_program((), procedure.select, eval_batch_size, len(split.train))
            identity = _identity(trial, source, drawn, preprocessing)
            return PlannedTrial(trial, cfg.digest(identity), identity, source, drawn, model, resting, nothing, readout)
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
        program = make_program(phases, procedure.select, eval_batch_size, len(split.train), procedure.test_crops)
        identity = _identity(trial, source, drawn, preprocessing)
        return PlannedTrial(trial, cfg.digest(identity), identity, source, drawn, model, layers, program)

    def source(self, trial: Trial) -> PlannedSource:
        """Returns what a trial starts from: the file is read, or the trial that trains it is planned."""
        source = trial.source
        if source.weights is not None:
            network = create_model(source.model, 2)
            _, manifest = read_file(source.weights, network)
            load(source.weights, network, head="new")  # every mismatch is found now
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
            source.procedure.crop_px or drawn.images.images.shape[1],
            tuple(round(float(value), 4) for value in mean),
            tuple(round(max(float(value), 1e-4), 4) for value in std),
        )
        untrained = PlannedSource(source.model, preprocessing)
        pretraining = Trial(
            cfg.Source(source.model),
            source.images,
            dataclasses.replace(source.procedure, init="random"),
            seed=seed,
        )
        planned = self.resolved(pretraining, untrained, "source.images", drawn)
        return PlannedSource(source.model, preprocessing, trained=planned)

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
                labels = images.labels[rows]
                return class_means(
                    model, manifest.preprocessing, variables, images.images, images.fingerprint, rows, labels, cache
                )

            target = self.target(trial, size_px)  # of which the images to train on are looked at, and no others
            own = read_images(spec, size_px, self.say, self.image_sets)
            to_train = np.flatnonzero(~np.isin(own.parts, ("val", "test")))
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
    side, crop_px = images.images.shape[1], trial.procedure.crop_px
    procedure = "procedure" if where == "target" else "source.procedure"
    if crop_px is not None and crop_px > side:
        raise UserError(
            f"config field '{procedure}.crop_px' is {crop_px}, but the images are {side} px; "
            f"give '{where}.size_px' {crop_px} or more."
        )
    if crop_px == side and trial.procedure.test_crops == "ten":
        raise UserError(
            f"config field '{procedure}.test_crops' is 'ten', but '{procedure}.crop_px' {crop_px} is the images' own "
            f"size; give '{where}.size_px' more, such as {round(side * 8 / 7)}."
        )
    return crop_px or side


def _identity(trial: Trial, source: PlannedSource, drawn: Drawn, preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns what determines a trial's result: content in the place of paths, seeds in the place of streams."""
    start: dict[str, Any] = {"model": trial.source.model, "preprocessing": dataclasses.asdict(preprocessing)}
    if trial.procedure.init == "pretrained":
        start["weights"] = source.digest
    folds = ["fold"] if trial.target.val_fraction and trial.stream_seed("fold") else []
    trained = ["order", "augment"] * (trial.procedure.classifier == "network")
    streams = (*["split"] * _uses_split(trial), "init", *trained, *folds)
    target = cfg.non_default(trial.target)
    given = {"split": drawn.split.digest} if trial.target.manifest is not None else {}
    return {
        "source": start,
        "target": {
            "images": drawn.images.fingerprint,
            **{name: target[name] for name in SPLIT_FIELDS if name in target},
            **given,
        },
        "procedure": used(trial.procedure, cfg.non_default(trial.procedure)),
        "seeds": {name: trial.stream_seed(name) for name in streams},
    }


def _group_key(trial: PlannedTrial) -> str:
    """Returns what trials share that run side by side: program, images, and the start of all that any phase freezes.

    Classifiers of features share the network as it starts.
    """
    if trial.readout is not None:
        network = trial.model.architecture, trial.readout.preprocessing, trial.readout.crop_px
        text = repr(("features", network, trial.images.fingerprint, trial.base))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    stats = [n.partition("/")[2] for n in expected_shapes(trial.model, trial.size_px) if n.startswith("batch_stats/")]
    live = [{*phase.trainable, *phase.tracked} for phase in trial.program.phases]
    frozen = [name for name in (*trial.layers, *stats) if not all(name in names for names in live)]
    in_head = [name.startswith(trial.model.units[-1] + "/") for name in frozen]
    start = trial.base if not all(in_head) else None
    head = trial.trial.stream_seed("init") if any(in_head) else None
    views = trial.trial.stream_seed("augment") if trial.trial.procedure.views else None
    text = repr((trial.program, trial.images.fingerprint, start, head, views))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
