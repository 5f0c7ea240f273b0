"""The phases of a trial: what is static in each, and how they follow from the config."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from jaxft.config import FROZEN, LayerRate, Training
from jaxft.core.errors import UserError
from jaxft.core.rules import Match
from jaxft.data.augmentation.augment import Changes, make_changes
from jaxft.data.batches import num_steps
from jaxft.models import Network, Preprocessing, unit_of
from jaxft.training.optimizers import Optimizer
from jaxft.training.regularization import Regularisers, make_regularisers
from jaxft.training.schedules import Schedule

NONE = Regularisers()


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one compiled program: everything that is static in it.

    `prefix` is the last unit of the frozen prefix, which runs without gradient and with its statistics frozen.
    `tracked` are the batch-norm statistics that move. With `views`, an image's index says which of its views is meant
    (`data.augment.view`). `mixes` are the ways in which the images of a batch are mixed (`data.augment.mix`);
    `weighted` says that classes weigh differently in the loss. `from_features` says that the images are what the
    prefix made of them already. With lbfgs the batch is all images and views, at every step. Batch norm normalises
    groups of `virtual_batch_size` images; `recalibrates` says that tracked statistics are replaced at the end.

    `part` are the steps of the schedule, from one to before the other, that the phase is of; none: all. `num_parts` are
    those that a batch is worked through in; `sharpness` says that SAM's gradient is used, `averaged` that a moving
    average of the weights is what counts. With `remat` a gradient keeps the inputs of units alone, and computes what is
    inside of them again.
    """

    model: Network
    preprocessing: Preprocessing
    optimizer: Optimizer
    prefix: str | None
    tracked: tuple[str, ...]
    batch_size: int
    changes: Changes
    views: int = 0
    from_features: bool = False
    mixes: tuple[str, ...] = ()
    weighted: bool = False
    part: tuple[int, int] | None = None
    num_parts: int = 1
    sharpness: bool = False
    averaged: bool = False
    regularisers: Regularisers = NONE
    virtual_batch_size: int | None = None
    recalibrates: bool = False
    remat: bool = False

    @property
    def trainable(self) -> tuple[str, ...]:
        """Returns the names of the leaves that train."""
        return tuple(name for name, _ in self.optimizer.groups)

    @property
    def num_steps(self) -> int:
        """Returns the length of the phase."""
        return self.optimizer.schedule.num_steps if self.part is None else self.part[1] - self.part[0]

    @property
    def first_step(self) -> int:
        """Returns the step of the schedule at which the phase begins; later than 0 it goes on from the one before."""
        return 0 if self.part is None else self.part[0]

    @property
    def changes_images(self) -> bool:
        """Tells whether chance decides what an image looks like."""
        return not self.changes.is_none or bool(self.mixes)

    @property
    def keeps_prefix(self) -> bool:
        """Tells whether the frozen prefix says the same of an image at every step, so that it can be kept."""
        return self.prefix is not None and (self.views > 0 or not self.changes_images)

    @property
    def head_only(self) -> bool:
        """Tells whether nothing is computed but the head."""
        return self.from_features and self.prefix in (self.model.feature_block, self.model.head)

    @property
    def heads_of_features(self) -> bool:
        """Tells whether nothing will be computed but the head, step by step, of what is kept."""
        return self.keeps_prefix and self.prefix in (self.model.feature_block, self.model.head) and not self.whole

    @property
    def evaluated(self) -> "Evaluated":
        """Returns what of the phase matters to its evaluation."""
        return Evaluated(self.model, self.preprocessing, self.prefix, self.from_features)

    @property
    def whole(self) -> bool:
        """Tells whether every step is over all images."""
        return self.optimizer.kind == "lbfgs"


@dataclass(frozen=True)
class Evaluated:
    """What is static in an evaluation, whatever the training; the first fields are those of `Phase`.

    `crops` are what is looked at of images that are larger than the network's: 'centre', or 'ten'.
    """

    model: Network
    preprocessing: Preprocessing
    prefix: str | None
    from_features: bool
    crops: str = "centre"


def make_phases(
    model: Network,
    preprocessing: Preprocessing,
    training: Training,
    layers: Mapping[str, Match[LayerRate]],
    batch_stats: Sequence[str],
    num_train: int,
    remat: bool = False,
) -> tuple[Phase, ...]:
    """Returns the phases of training: the head alone, where it is probed first, then all that is not frozen.

    With gradual unfreezing (Howard & Ruder 2018, section 3.3, there a layer an epoch) the second is several, each with
    a stage more than the one before; they share the schedule and go on from each other.

    Args:
      layers: what the rules say of each parameter.
      batch_stats: names of the network's batch-norm statistics.
      num_train: images a pass.
      remat: whether the insides of units are computed again for the gradient.
    """

    depth_of = unit_depths(model, layers)

    def steps(epochs: float) -> int:
        return num_steps(num_train, epochs, training.batches.size)

    def phase(
        trained: Mapping[str, str],
        schedule: Schedule,
        part: tuple[int, int] | None = None,
        joined: Mapping[str, int] | None = None,
        probe: bool = False,
    ) -> Phase:
        whole = probe and training.linear_probe.optimizer == "lbfgs"
        prefix = frozen_prefix(model, trained)
        live = model.units[model.units.index(prefix) + 1 :] if prefix else model.units
        tracked = [name for name in batch_stats if unit_of(name, model.units) in live]
        optimizer = Optimizer(
            "lbfgs" if whole else training.optimizer.name,
            training.optimizer.nesterov,
            schedule,
            tuple(sorted(trained.items())),
            tuple((name, depth_of[name]) for name in sorted(trained)),
            probe,
            tuple((name, step) for name, step in sorted((joined or {}).items()) if step),
            training.optimizer.clip_norm > 0 and not whole,
            tuple(name for name in sorted(trained) if name in model.decayed),
        )
        return Phase(
            model,
            preprocessing,
            optimizer,
            prefix,
            tuple(tracked) if training.batch_norm.statistics != FROZEN else (),
            num_train * max(training.augmentation.views, 1) if whole else training.batches.size,
            make_changes(training),
            training.augmentation.views,
            mixes=("mixup",) * (training.augmentation.mixup.alpha > 0)
            + ("cutmix",) * (training.augmentation.cutmix.alpha > 0),
            weighted=training.loss.class_weights != "none",
            part=part,
            num_parts=1 if whole else training.batches.accumulate,
            sharpness=training.optimizer.sam_radius > 0 and not whole,
            averaged=training.optimizer.ema_decay > 0 and not whole,
            regularisers=NONE if probe else make_regularisers(model, training, tuple(layers), trained, prefix),
            virtual_batch_size=training.batch_norm.virtual_batch_size,
            recalibrates=training.batch_norm.statistics == "recalibrated" and bool(tracked),
            remat=remat and not whole,
        )

    trained = {name: match.pattern for name, match in layers.items() if match.value != FROZEN}
    phases = []
    if training.linear_probe.epochs:
        head = {name: pattern for name, pattern in trained.items() if model.in_head(name)}
        if head:  # which a rule may have frozen
            shape, length = training.schedule.shape, steps(training.linear_probe.epochs)
            if training.linear_probe.optimizer == "lbfgs":
                shape, length = "constant", round(training.linear_probe.epochs)
            decays = tuple(map(steps, training.schedule.decay_epochs)) or training.schedule.decay_steps
            schedule = Schedule(shape, length, 0, decays if shape == "step" else ())
            phases.append(phase(head, schedule, probe=True))
    if training.schedule.epochs or training.schedule.steps:
        schedule = main_schedule(training, steps)
        if not training.layers.unfreeze_epochs:
            return (*phases, phase(trained, schedule))
        stages = stages_of(model, trained)
        moments = (0, *map(steps, training.layers.unfreeze_epochs), schedule.num_steps)
        _check_unfreezing(training, stages, moments)
        joined: dict[str, int] = {}
        for i, (begin, end) in enumerate(itertools.pairwise(moments)):
            last = end == schedule.num_steps
            joined |= {name: begin for stage in (stages[i:] if last else stages[i : i + 1]) for name in stage}
            some = {name: trained[name] for name in joined}
            phases.append(phase(some, schedule, (begin, end), joined))
    return tuple(phases)


def main_schedule(training: Training, steps: Callable[[float], int]) -> Schedule:
    """Returns the schedule of all that follows the probe; `steps` says how many steps so many passes are.

    Raises a `UserError` where a warm-up or a decay that is given in steps is not within it.
    """
    length = training.schedule.steps or steps(training.schedule.epochs)
    warmup = training.schedule.warmup_steps or steps(training.schedule.warmup_epochs)
    decays = training.schedule.decay_steps or tuple(map(steps, training.schedule.decay_epochs))
    decays = decays if training.schedule.shape == "step" else ()
    in_steps = bool(training.schedule.steps or training.schedule.warmup_steps or training.schedule.decay_steps)
    for name, at in (("warmup", warmup), *(("decay", at) for at in decays)):
        if in_steps and length and at >= length:
            raise UserError(
                f"config field 'training.schedule.{name}_steps', or {name}_epochs, comes to step {at}, "
                f"but there are {length} steps; it must be before the end."
            )
    return Schedule(training.schedule.shape, length, warmup, decays)


def unit_depths(model: Network, names: Iterable[str]) -> dict[str, int]:
    """Returns of each parameter how far its unit is below the head, counting units that have parameters."""
    names = list(names)
    with_parameters = {unit_of(name, model.units) for name in names}
    depth_of = {unit: i for i, unit in enumerate(unit for unit in reversed(model.units) if unit in with_parameters)}
    return {name: depth_of[unit_of(name, model.units)] for name in names}


def stages_of(model: Network, trained: Iterable[str]) -> list[list[str]]:
    """Returns the leaves that train by stage, from the head down; a stage is units that share the first part of a name.

    A stage of which nothing trains is left out.
    """
    stages: dict[str, list[str]] = {unit.partition("/")[0]: [] for unit in reversed(model.units)}
    for name in trained:
        stages[unit_of(name, model.units).partition("/")[0]].append(name)
    return [names for names in stages.values() if names]


def _check_unfreezing(training: Training, stages: Sequence[Sequence[str]], moments: Sequence[int]) -> None:
    given = list(training.layers.unfreeze_epochs)
    if len(given) >= len(stages):
        raise UserError(
            f"config field 'training.layers.unfreeze_epochs' is {given}, but after the first there "
            f"{'is' if len(stages) == 2 else 'are'} {len(stages) - 1} stage{'s' * (len(stages) != 2)} to let in; "
            "give no more than that."
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(moments)):
        raise UserError(
            f"config field 'training.layers.unfreeze_epochs' is {given}, which are steps {list(moments[1:-1])} of "
            f"{moments[-1]}; each must be a step later than the one before, and before the end."
        )


def frozen_prefix(model: Network, trained: Mapping[str, str]) -> str | None:
    """Returns the last of the leading units none of whose leaves train, or None where the first one trains."""
    live = {unit_of(name, model.units) for name in trained}
    first = next((i for i, unit in enumerate(model.units) if unit in live), len(model.units))
    return model.units[first - 1] if first else None
