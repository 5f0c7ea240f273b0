"""Planning of a study: resolves every trial of a config before the first training step.

Planning resolves weights, images, splits, classes, shapes, rules and digests, so that errors of a config are raised
before training starts.
"""

import dataclasses
import zlib
from typing import Any

import numpy as np

from jaxft import config as cfg
from jaxft.config import FROZEN, Images, LayerRate, Study, Trial, with_fields
from jaxft.config.identity import identity
from jaxft.core.errors import UserError
from jaxft.core.events import Listener, print_warnings
from jaxft.core.plugins import load_plugins
from jaxft.core.rules import Match
from jaxft.core.text import plural
from jaxft.data import ImageSet, SampledImages, draw
from jaxft.data.readers.image_set import channel_statistics
from jaxft.data.sampling.class_choice import choose_classes, feature_nearness, name_nearness
from jaxft.data.sampling.reading import ImageReader
from jaxft.data.streaming import put_or_stream
from jaxft.features.cache import make_feature_cache
from jaxft.features.class_means import class_means, pooled_prefix
from jaxft.features.feature_classifier import plan_feature_classifier
from jaxft.models import Preprocessing, create_model
from jaxft.models.structure import expected_shapes, parameter_names
from jaxft.study.chunk.program import make_program
from jaxft.study.grouping import group_key
from jaxft.study.plan_warnings import warnings_of
from jaxft.study.planned import Group, Plan, PlannedSource, PlannedTrial
from jaxft.training.adapters import check_pairs, is_adapter
from jaxft.training.head_initialization import check_head
from jaxft.training.layer_selection import grown_model, tuning_rules, with_adapters
from jaxft.training.learning_rates import resolve_layers
from jaxft.training.phases import make_phases, with_remat
from jaxft.weights import Manifest, ReadOptions, is_head, load, load_flat, replace_preprocessing


def make_plan(study: Study, emit: Listener = print_warnings) -> Plan:
    """Returns the plan of a study: its trials, settings, groups and sources, resolved and checked.

    `emit` receives the progress of image decoding.

    Raises:
      UserError: the study cannot run, for example with an unknown model, unreadable weights or images, too few images,
        or a rule without a match.
    """
    planner = _Planner(study, emit)
    resolved = [planner.trial(trial) for trial in study.trials()]
    planned: dict[str, PlannedTrial] = {}
    for trial in resolved:
        planned.setdefault(trial.digest, trial)  # trials of two settings with the same digest run once
    trials = tuple(planned.values())
    levels = [tuple((n, cfg.get_at(t.trial, n)) for n in study.factor_names()) for t in trials]
    groups: dict[str, list[PlannedTrial]] = {}
    for trial in trials:
        groups.setdefault(group_key(trial), []).append(trial)
    trained_sources = [trial.source.trained for trial in trials if trial.source.trained and trial.starts_from_source]
    sources = {source.digest: source for source in trained_sources}
    return Plan(
        study,
        trials,
        tuple(dict(level) for level in dict.fromkeys(levels)),
        tuple(Group(key, tuple(members)) for key, members in groups.items()),
        tuple(sources.values()),
        warnings_of(resolved, planner.manifests, study.factor_names()),
    )


class _Planner:
    """Resolves trials. Trials share image sets, splits and source networks, each resolved only once."""

    def __init__(self, study: Study, emit: Listener):
        self.execution, self.emit = study.execution, emit
        self.plugins = load_plugins(study.plugins)
        self.reader = ImageReader(emit)
        self.draws: dict[Any, SampledImages] = {}
        self.sources: dict[Any, PlannedSource] = {}
        self.trained: dict[str, PlannedTrial] = {}
        self.manifests: list[Manifest] = []  # of all weight files that the study reads

    def content(
        self, trial: Trial, source: PlannedSource, sampled: SampledImages, preprocessing: Preprocessing
    ) -> dict[str, Any]:
        """Returns the digests of the images, split and weights of a trial, its preprocessing, and plug-in versions."""
        content: dict[str, Any] = {
            "preprocessing": dataclasses.asdict(preprocessing),
            "images": sampled.images.fingerprint,
            "split": sampled.split.digest,
        }
        if trial.training.initialization.start != "random":
            content["weights"] = source.digest
        return content | {"plugins": self.plugins} if self.plugins else content

    def trial(self, trial: Trial) -> PlannedTrial:
        """Returns a trial of the study, resolved together with its source."""
        near_target = trial.source.images is not None and trial.source.images.class_choice != "random"
        key = trial.source, trial.stream_seed("source"), self.target_key(trial) if near_target else None
        if key not in self.sources:
            self.sources[key] = self.source(trial)
        return self.resolved(trial, self.sources[key], "target")

    def resolved(
        self, trial: Trial, source: PlannedSource, where: str, sampled: SampledImages | None = None
    ) -> PlannedTrial:
        """Returns a resolved trial.

        Args:
          trial: the trial.
          source: the source that the trial may start from.
          where: the config field of the images of the trial, 'target' or 'source.images'.
          sampled: the images of the trial and their split; if None, the target images are drawn.

        Raises:
          UserError: no test images are left, all parameters are frozen, a phase has fewer images than one batch, or
            fields contradict each other.
        """
        sampled = sampled or self.target(trial, trial.target.size_px or source.preprocessing.size_px)
        images, split = sampled.images, sampled.split
        is_to_be_tested = trial.target.tested and trial.target.manifest is None
        if where == "target" and is_to_be_tested and not len(split.test):
            raise UserError(
                f"all images of {trial.target.data!r} are used for training and validation, so none is left to test; "
                f"{'lower' if trial.target.train_per_class else 'set'} 'target.train_per_class'."
            )
        size_px = _input_px(trial, images, where)
        preprocessing = dataclasses.replace(source.preprocessing, size_px=size_px)
        model = create_model(grown_model(trial.source.model, trial.training), len(images.class_names))
        model = model.with_precision(self.execution.precision)
        names = parameter_names(model, size_px)
        trial_identity = identity(trial, self.execution, self.content(trial, source, sampled, preprocessing))
        training, eval_batch_size = trial.training, self.execution.eval_batch_size
        if training.classifier.kind != "network":
            counts = len(split.train), len(split.val), len(split.test)
            feature_classifier = plan_feature_classifier(
                model, training, preprocessing, counts, self.execution.feature_cache_bytes
            )
            all_frozen = {name: Match[LayerRate](FROZEN, ".*") for name in names}
            empty_program = make_program((), training.selection.weights, eval_batch_size, len(split.train))
            return PlannedTrial(
                trial, trial_identity, source, sampled, model, all_frozen, empty_program, feature_classifier
            )
        check_head(training, model)
        tuning = tuning_rules(training, model, names)
        layers = resolve_layers(training, model, with_adapters(training, model, names), tuning)
        check_pairs({name for name, match in layers.items() if match.value == FROZEN})
        # A frozen low-rank update stays zero, so its factors are left out.
        layers = {n: match for n, match in layers.items() if match.value != FROZEN or not is_adapter(n)}
        if all(match.value == FROZEN for match in layers.values()):
            raise UserError(
                "the rules of 'training.layers' freeze all parameters, so there is nothing to train; do not freeze "
                f"'{model.head}/.*'."
            )
        stats = [
            n.removeprefix("batch_stats/") for n in expected_shapes(model, size_px) if n.startswith("batch_stats/")
        ]
        phases = make_phases(model, preprocessing, training, layers, stats, len(split.train))
        phases = with_remat(phases) if self.execution.remat else phases
        if any(phase.num_steps == 0 for phase in phases):
            raise UserError(
                f"{training.schedule.epochs:g} epochs of {len(split.train)} images are less than one batch of "
                f"{training.batches.size}; lower 'training.batches.size', raise 'training.schedule.epochs', or set "
                "'training.schedule.steps'."
            )
        if any(phase.source_needs.logits for phase in phases):
            _check_source_head(source, size_px)
        program = make_program(
            phases, training.selection.weights, eval_batch_size, len(split.train), training.selection.test_crops
        )
        return PlannedTrial(trial, trial_identity, source, sampled, model, layers, program)

    def source(self, trial: Trial) -> PlannedSource:
        """Returns the source of a trial: a weight file, a planned trial that trains the network, or neither.

        Raises:
          UserError: the file does not fit the network, or `source.epoch` is larger than the number of epochs.
        """
        source = trial.source
        if source.weights is not None:
            network = create_model(source.model, 2)
            # Raises an error now if the file does not fit.
            options = ReadOptions(source.state_dict, source.preprocessing.given())
            _, manifest = load_flat(source.weights, network, head="new", options=options)
            self.manifests.append(manifest)
            return PlannedSource(
                source.model, manifest.preprocessing, manifest, source.weights, state_dict=source.state_dict
            )
        if source.images is None:
            default = create_model(source.model, 2).preprocessing
            return PlannedSource(source.model, replace_preprocessing(default, source.preprocessing.given()))
        published = create_model(source.model, 2).preprocessing
        native = None if source.images.data == "digits" or source.images.data.endswith(".npz") else published.size_px
        # A hash, so that the source and a randomly initialized trial start from different initial weights.
        seed = zlib.crc32(f"source:{trial.stream_seed('source')}".encode())
        size_px = source.images.size_px or native
        spec = source.images
        if spec.class_choice != "random":
            spec = self.near_target(trial, self.reader.read(spec, size_px), seed)
        sampled = dataclasses.replace(self.draw(spec, seed, size_px, "source.images"), requested=source.images)
        mean, std = channel_statistics(sampled.images.images, sampled.split.train)
        preprocessing = Preprocessing(
            source.training.augmentation.crop.size_px or sampled.images.images.shape[1],
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
        planned = self.resolved(pretraining, untrained, "source.images", sampled)
        if planned.digest in self.trained:  # the same network with another `source.epoch`
            planned = self.trained[planned.digest]
        self.trained[planned.digest] = planned
        if source.epoch is not None and source.epoch > planned.program.num_epochs:
            raise UserError(
                f"config field 'source.epoch' is {source.epoch}, but the source is trained for only "
                f"{plural(planned.program.num_epochs, 'epoch')}; lower it, or raise 'source.training.schedule.epochs'."
            )
        return PlannedSource(source.model, preprocessing, trained=planned, epoch=source.epoch)

    def near_target(self, trial: Trial, images: ImageSet, seed: int) -> Images:
        """Returns the config of the source images, with the classes that are nearest to or farthest from the target.

        Raises:
          UserError: a class of the source has no training images, and its distance is computed from features.
        """
        spec = trial.source.images
        assert spec is not None
        names, similarity = images.class_names, spec.similarity
        if similarity.by != "features":
            target = self.target(trial, trial.target.size_px or images.images.shape[1])
            tables = spec.synsets, trial.target.synsets
            nearness = name_nearness(names, target.original.class_names, similarity.by, *tables)
        else:
            assert similarity.weights is not None
            model = create_model(similarity.model or trial.source.model, 2)
            variables, manifest = load(similarity.weights, model, head="new")
            self.manifests.append(manifest)
            size_px = manifest.preprocessing.size_px
            cache = make_feature_cache(self.execution)

            def means(images: ImageSet, rows: np.ndarray) -> np.ndarray:
                labels, pixels = images.labels[rows], put_or_stream(images.images, self.execution.device_data_bytes)
                prefix = pooled_prefix(model, manifest.preprocessing, variables, pixels, images.fingerprint)
                return class_means(prefix, rows, labels, cache)

            target = self.target(trial, size_px)  # only its training images are used below
            source_images = self.reader.read(spec, size_px)
            to_train = np.flatnonzero(~np.isin(source_images.subsets, ("val", "test")))
            for label in set(range(len(names))).difference(source_images.labels[to_train].tolist()):
                raise UserError(
                    f"class {names[label]!r} of {spec.data!r} has no training images, so its mean feature cannot be "
                    "computed; leave it out of 'source.images.classes'."
                )
            nearness = feature_nearness(
                names, means(source_images, to_train), means(target.original, target.split.train)
            )
        return choose_classes(spec, names, seed, "source.images", nearness)

    def target(self, trial: Trial, size_px: int) -> SampledImages:
        """Returns the target images of a trial and their split, at a side of `size_px` pixels."""
        return self.draw(trial.target, trial.stream_seed("split"), size_px, "target", trial.stream_seed("fold"))

    def target_key(self, trial: Trial) -> Any:
        """Returns the fields and seeds that determine the target images of a trial."""
        return trial.target, trial.stream_seed("split"), trial.stream_seed("fold")

    def draw(self, spec: Images, seed: int, size_px: int | None, where: str, fold: int = 0) -> SampledImages:
        """Returns the images of `spec` and their split, drawn with a seed; calls with equal arguments share one result.

        Args:
          spec: config of the images.
          seed: seed of the random choice of classes, images and split.
          size_px: side of the images in pixels; if None, images keep their size.
          where: the config field of `spec`, for error messages.
          fold: number of the cross-validation fold, from 0.
        """
        key = spec, seed, size_px, where, fold
        if key not in self.draws:
            self.draws[key] = draw(spec, seed, size_px, where, fold, self.reader)
        return self.draws[key]


def _input_px(trial: Trial, images: ImageSet, where: str) -> int:
    """Returns the side of the network input in pixels: `crop.size_px`, or if that is None, the side of the images.

    Raises:
      UserError: the images are smaller than the crop, or with ten test crops, not larger than the crop.
    """
    side, crop_px = images.images.shape[1], trial.training.augmentation.crop.size_px
    training = "training" if where == "target" else "source.training"
    if crop_px is not None and crop_px > side:
        raise UserError(
            f"config field '{training}.augmentation.crop.size_px' is {crop_px}, but the images are {side} px; "
            f"set '{where}.size_px' to {crop_px} or more."
        )
    if crop_px == side and trial.training.selection.test_crops == "ten":
        raise UserError(
            f"config field '{training}.selection.test_crops' is 'ten', but the images are not larger than "
            f"'{training}.augmentation.crop.size_px', {crop_px} px; raise '{where}.size_px', for example to "
            f"{round(side * 8 / 7)}."
        )
    return crop_px or side


def _check_source_head(source: PlannedSource, size_px: int) -> None:
    """Checks that the source has a head for images of `size_px`, because distillation needs the outputs of this head.

    Raises:
      UserError: the source has no head, or its head fits only images of another size.
    """
    model = create_model(source.model, 2)
    if source.manifest is not None and source.manifest.num_classes is None:
        raise UserError(
            "config field 'training.regularization.distillation.strength' needs the head of the source, but "
            f"{source.path!r} contains none; set the strength to 0, or use weights with a head."
        )
    source_px = source.preprocessing.size_px
    source_shapes, target_shapes = (
        {name: shape for name, shape in expected_shapes(model, px).items() if is_head(name, model)}
        for px in (source_px, size_px)
    )
    if source_shapes != target_shapes:
        raise UserError(
            "config field 'training.regularization.distillation.strength' needs the head of the source, which only fits"
            f" images of {source_px} px; set 'target.size_px' to {source_px}, or the strength to 0."
        )
