"""The plan of a study: resolved trials, sources and groups."""

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

UNEVEN_RATIO = 1.2  # of the numbers of test images of two classes

STREAMS = tuple(stream.name for stream in dataclasses.fields(cfg.Streams))


@dataclass(frozen=True)
class PlannedSource:
    """The source of trials: a weight file, a network that jaxft trains first, or only an architecture.

    Attributes:
      model: name of the architecture.
      preprocessing: of its images.
      manifest: of the weight file; None without a file.
      path: of the weight file; None without a file.
      state_dict: the weights of a file with several networks (`source.state_dict`).
      trained: the trial that trains the network; None if jaxft does not train it.
      epoch: trials start from the weights after this epoch, counted from 1; if None, from the selected weights.
    """

    model: str
    preprocessing: Preprocessing
    manifest: Manifest | None = None
    path: str | None = None
    trained: "PlannedTrial | None" = None
    epoch: int | None = None
    state_dict: str | None = None

    @property
    def digest(self) -> str:
        """Returns the identity of the weights, empty without weights.

        It is the sha256 of a file, or a digest of it and of the state dict; or the digest of the trial that trains the
        network, or a digest of trial and epoch.
        """
        if self.trained is not None and self.epoch is not None:
            return cfg.digest({"source": self.trained.digest, "epoch": self.epoch})
        if self.trained is not None:
            return self.trained.digest
        if self.manifest is not None and self.state_dict is not None:
            return cfg.digest({"source": self.manifest.sha256, "state_dict": self.state_dict})
        return self.manifest.sha256 if self.manifest else ""


@dataclass(frozen=True, eq=False)
class PlannedTrial:
    """A resolved trial.

    Attributes:
      trial: its config.
      identity: the content of its digest.
      source: the source that it may start from.
      sampled: its images and split.
      model: its network.
      layers: the matching rule and learning rate of each parameter and LoRA factor, by name.
      program: the static part of its training.
      feature_classifier: its classifier of features; None if it trains a network. With a classifier, the program has no
        phases.
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
        """Returns 16 hexadecimal digits that identify the trial, equal in all processes with the same schema."""
        return cfg.digest(self.identity)

    @property
    def images(self) -> ImageSet:
        """Returns the images with their true labels, without label noise."""
        return self.sampled.images

    @property
    def split(self) -> Split:
        """Returns the rows of the training, validation and test images, and the labels for training."""
        return self.sampled.split

    @property
    def backbone(self) -> tuple[str, ...]:
        """Returns the names of the backbone parameters."""
        return tuple(name for name in self.layers if not self.model.in_head(name))

    def initial_values_key(self, names: Iterable[str]) -> tuple[str, ...]:
        """Returns the identity of the initial values of backbone leaves: pretrained, random, and new from growth."""
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
        """Returns the shape of every leaf by name with its collection, including LoRA factors."""
        shapes, rank = dict(expected_shapes(self.model, self.size_px)), self.trial.training.layers.lora_rank
        for name in filter(is_adapter, self.layers):
            shapes[f"params/{name}"] = adapter_shape(name, shapes[f"params/{kernel_of(name)}"], rank)
        return shapes

    @property
    def size_px(self) -> int:
        """Returns the side of the network input in pixels."""
        return (self.feature_classifier or self.program.phases[-1]).preprocessing.size_px

    @property
    def resize_px(self) -> int | None:
        """Returns the side of the images in pixels if the network input is a crop of them, otherwise None."""
        side = self.images.images.shape[1]
        return None if side == self.size_px else side

    @property
    def streams_used(self) -> tuple[str, ...]:
        """Returns the names of the random streams that affect the result of the trial."""
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
        """Returns whether the initial weights of the trial depend on the source weights."""
        return self.trial.training.initialization.start != "random"

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Returns the names of the layers, in the order of the forward pass."""
        return tuple(dict.fromkeys(map(paths.layer_of, parameter_names(self.model, self.size_px))))

    @property
    def num_bytes(self) -> int:
        """Returns the size in bytes of all variables of the network in float32."""
        return 4 * sum(math.prod(shape) for shape in expected_shapes(self.model, self.size_px).values())


@dataclass(frozen=True)
class Group:
    """Trials that share a compiled program and images; `key` is the name of the group in the store."""

    key: str
    trials: tuple[PlannedTrial, ...]

    @property
    def program(self) -> Program:
        """Returns the program of all trials."""
        return self.trials[0].program

    @property
    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """Returns the features of all classifiers of the group; one forward pass computes all of them."""
        specs = {trial.feature_classifier.feature_spec for trial in self.trials if trial.feature_classifier}
        return tuple(sorted(specs, key=lambda spec: (spec.block, spec.pooling, spec.below or "")))


@dataclass(frozen=True)
class Plan:
    """A resolved study.

    Attributes:
      study: its config.
      trials: its trials, in order, without duplicates.
      settings: the levels of all factors in each setting.
      groups: the trials by group.
      sources: the source networks to train first.
      warnings: warnings about the images, the batches, and trials that cannot differ.
    """

    study: Study
    trials: tuple[PlannedTrial, ...]
    settings: tuple[Mapping[str, Any], ...]
    groups: tuple[Group, ...] = field(repr=False)
    sources: tuple[PlannedTrial, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def num_programs(self) -> int:
        """Returns the number of training programs to compile, for trials and sources."""
        return len({phase for trial in (*self.trials, *self.sources) for phase in trial.program.phases})

    def levels(self, trial: Trial) -> dict[str, Any]:
        """Returns the level of each factor of a trial, by field name."""
        return {name: cfg.get_at(trial, name) for name in self.study.factor_names()}

    def effective_rates(self) -> list[float]:
        """Returns the effective learning rate of the head in each setting."""
        rate_by_levels = {
            tuple(self.levels(t.trial).items()): t.trial.training.optimizer.effective_rate for t in self.trials
        }
        return [rate_by_levels[tuple(levels.items())] for levels in self.settings]

    def varied(self) -> tuple[str, ...]:
        """Returns the names of the used random streams that vary over the seeds of a setting."""
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
        """Returns (epoch, digest of the weights after it) of each snapshot of a source; epochs are counted from 1."""
        sources = [trial.source for trial in self.trials if trial.starts_from_source]
        kept = {s.epoch: s.digest for s in sources if s.trained is source and s.epoch is not None}
        return tuple(sorted(kept.items()))

    def size_line(self) -> str:
        """Returns one line with the numbers of trials, groups, programs and sources, and the kept weights."""
        product = f"{plural(len(self.settings), 'setting')} x {plural(len(self.study.seeds), 'seed')}"
        return (
            f"{plural(len(self.trials), 'trial')} = {product}, in {plural(len(self.groups), 'group')}; "
            f"{plural(self.num_programs, 'training program')}, {plural(len(self.sources), 'source')} to train first; "
            f"{self.weights_line()}"
        )

    def weights_line(self) -> str:
        """Returns the policy for weights and their total size on disk: 'weights kept: all, 36.5 MB'.

        If there are snapshots during training, they are counted too.
        """
        policy = self.study.execution.keep_weights.replace("_", " ")
        line = f"weights kept: {policy}, {byte_size(self.weights_bytes())}"
        sizes = [trial.num_bytes for trial in self.trials for _ in self.snapshot_steps(trial)]
        return f"{line}; {plural(len(sizes), 'snapshot')}, {byte_size(sum(sizes))}" if sizes else line

    def snapshot_steps(self, trial: PlannedTrial) -> list[int]:
        """Returns the steps after which `execution.snapshot_steps` stores weights of a trial, in increasing order."""
        last = trial.program.steps_before(len(trial.program.phases))
        return [step for step in sorted(set(self.study.execution.snapshot_steps)) if step <= last]

    def weights_bytes(self) -> int:
        """Returns the size in bytes of the final weights that the policy keeps."""
        policy = self.study.execution.keep_weights
        kept = self.trials if policy == "all" else first_of_each_setting(self) if policy == "best_seed" else ()
        return sum(trial.num_bytes for trial in kept if trial.feature_classifier is None)

    def record(self, origin: cfg.ConfigFile) -> dict[str, Any]:
        """Returns the plan as a dict, for the store and the report."""
        settings = [list(level.items()) for level in self.settings]
        return {
            "title": self.study.title,
            "docstring": origin.docstring,
            "config": cfg.to_dict(self.study),
            "changed": cfg.non_default(self.study),
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
    """Returns whether the largest class of the test images has more than 1.2 times the images of the smallest.

    Then a few classes dominate plain accuracy.
    """
    counts = np.unique(trial.images.labels[trial.split.test], return_counts=True)[1]
    return len(counts) > 0 and bool(counts.max() > UNEVEN_RATIO * counts.min())


def first_of_each_setting(plan: Plan) -> tuple[PlannedTrial, ...]:
    """Returns the first trial of each setting."""
    first: dict[Any, PlannedTrial] = {}
    for trial in plan.trials:
        first.setdefault(dataclasses.replace(trial.trial, seed=0), trial)
    return tuple(first.values())


def uses_split(trial: Trial) -> bool:
    """Returns whether the random stream 'split' affects the trial.

    It does not if a manifest replaces the draws and no patches are shuffled.
    """
    return trial.target.manifest is None or trial.target.shuffle_px is not None
