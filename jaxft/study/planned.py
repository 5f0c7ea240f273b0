"""Trials, sources and groups with everything resolved."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxft import config as cfg
from jaxft.config import LayerRate, Study, Trial
from jaxft.core import paths
from jaxft.core.rules import Match
from jaxft.core.text import byte_size, plural
from jaxft.data import ImageSet, SampledImages, Split
from jaxft.features.feature_classifier import FeatureClassifier
from jaxft.features.feature_spec import FeatureSpec
from jaxft.models import Network, Preprocessing, block_of
from jaxft.models.structure import expected_shapes, parameter_names
from jaxft.study.chunk.program import Program
from jaxft.training.adapters import adapter_shape, is_adapter, kernel_of
from jaxft.training.layer_selection import has_random_backbone, has_random_start, is_new, transferred_blocks
from jaxft.weights import Manifest

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

    `layers` are its parameters, and what the rules say of them. `feature_classifier` is the classifier of features
    where it is that which is trained; then the program has no phases.
    """

    trial: Trial
    identity: Mapping[str, Any]
    source: PlannedSource
    sampled: SampledImages
    model: Network
    layers: Mapping[str, Match[LayerRate]]
    program: Program
    feature_classifier: FeatureClassifier | None = None

    @functools.cached_property
    def digest(self) -> str:
        """Returns 16 hexadecimal digits that name the trial, the same in every process and version."""
        return cfg.digest(self.identity)

    @property
    def images(self) -> ImageSet:
        """Returns the images, with true labels."""
        return self.sampled.images

    @property
    def split(self) -> Split:
        """Returns which images are trained, selected and tested on, and the labels that it sees."""
        return self.sampled.split

    @property
    def backbone(self) -> tuple[str, ...]:
        """Returns the names of its parameters below the head."""
        return tuple(name for name in self.layers if not self.model.in_head(name))

    def initial_values_key(self, names: Iterable[str]) -> tuple[str, ...]:
        """Returns what identifies the values of leaves below the head at the start, and which are the source's."""
        training, seed = self.trial.training, self.trial.stream_seed("init")
        transferred = transferred_blocks(training, self.model, tuple(self.layers))
        random_key = (
            f"mean_var {self.source.digest} {seed}" if training.initialization.start == "mean_var" else f"random {seed}"
        )
        all_blocks = self.model.blocks
        blocks = {block_of(name, all_blocks) for name in names if not is_new(training, name)}
        pretrained, random = sorted(blocks.intersection(transferred)), sorted(blocks.difference(transferred))
        grown_key = [f"grown {seed}"] * any(is_new(training, name) for name in names)
        source_key = [self.source.digest, *pretrained * bool(random)] * bool(pretrained)
        return (*source_key, *[random_key] * bool(random), *grown_key)

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
        return (self.feature_classifier or self.program.phases[-1]).preprocessing.size_px

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
        if self.feature_classifier is not None:
            init_stream = ["init"] * has_random_backbone(self.trial.training, self.model, tuple(self.layers))
            return (*["split"] * uses_split(self.trial), *["source"] * trains_source, *init_stream, *["fold"] * folds)
        last = self.program.phases[-1]
        random_images = last.augments_images or last.regularizers.is_random
        optional = ["augment"] * random_images + ["fold"] * folds + ["source"] * trains_source
        init_stream = ["init"] * has_random_start(self.trial.training, self.model, tuple(self.layers))
        return (*["split"] * uses_split(self.trial), *init_stream, "order", *optional)

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
    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """Returns the features of its classifiers, which one pass of the network makes for all of them."""
        specs = {trial.feature_classifier.feature_spec for trial in self.trials if trial.feature_classifier}
        return tuple(sorted(specs, key=lambda spec: (spec.block, spec.pooling, spec.below or "")))


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
        varied = []
        for stream in STREAMS:
            seeds: dict[Trial, set[int]] = {}
            for trial in self.trials:
                if stream in trial.streams_used:
                    same = dataclasses.replace(trial.trial, seed=0)
                    seeds.setdefault(same, set()).add(trial.trial.stream_seed(stream))
            if any(len(stream_seeds) > 1 for stream_seeds in seeds.values()):
                varied.append(stream)
        return tuple(varied)

    def snapshots(self, source: PlannedTrial) -> tuple[tuple[int, str], ...]:
        """Returns after which passes, counted from 1, a source's weights are kept, and what identifies them then."""
        sources = [trial.source for trial in self.trials if trial.starts_from_source]
        kept = {s.epoch: s.digest for s in sources if s.trained is source and s.epoch is not None}
        return tuple(sorted(kept.items()))

    def size_line(self) -> str:
        """Returns what the study comes to: numbers of trials, groups, programs and sources, and the weights kept."""
        product = f"{plural(len(self.settings), 'setting')} x {plural(len(self.study.seeds), 'seed')}"
        return (
            f"{plural(len(self.trials), 'trial')} = {product}, in {plural(len(self.groups), 'group')}; "
            f"{plural(self.num_programs, 'training program')}, {plural(len(self.sources), 'source')} to train first; "
            f"{self.weights_line()}"
        )

    def weights_line(self) -> str:
        """Returns which final weights are kept, and how much disk they take."""
        policy = self.study.execution.keep_weights.replace("_", " ")
        return f"weights kept: {policy}, {byte_size(self.weights_bytes())}"

    def weights_bytes(self) -> int:
        """Returns how much disk the final weights take that the policy keeps."""
        policy = self.study.execution.keep_weights
        kept = self.trials if policy == "all" else one_a_setting(self) if policy == "best_seed" else ()
        return sum(trial.num_bytes for trial in kept if trial.feature_classifier is None)

    def record(self, origin: cfg.ConfigFile) -> dict[str, Any]:
        """Returns the plan as the store keeps it and the report reads it."""
        settings = [list(level.items()) for level in self.settings]
        return {
            "title": self.study.title,
            "docstring": origin.docstring,
            "config": cfg.to_dict(self.study),
            "changed": cfg.non_default(self.study),  # from the defaults
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


def one_a_setting(plan: Plan) -> tuple[PlannedTrial, ...]:
    """Returns the first trial of each setting."""
    first: dict[Any, PlannedTrial] = {}
    for trial in plan.trials:
        first.setdefault(dataclasses.replace(trial.trial, seed=0), trial)
    return tuple(first.values())


def uses_split(trial: Trial) -> bool:
    """Tells whether the stream 'split' decides anything: it does not for a manifest whose images are not shuffled."""
    return trial.target.manifest is None or trial.target.shuffle_px is not None
