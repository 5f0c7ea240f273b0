"""The phases of a trial, built from the config."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from jaxft.config import FROZEN, LayerRate, Training
from jaxft.config.fields import MAX_EPOCHS, MAX_STEPS
from jaxft.core.errors import UserError
from jaxft.core.rules import Match
from jaxft.data.augmentation.augment import active_augmentations
from jaxft.data.batches import num_steps
from jaxft.models import Network, Preprocessing, block_of
from jaxft.training.optimizers import LBFGS, Optimizer
from jaxft.training.phase import Phase
from jaxft.training.regularizers.active import make_regularizers
from jaxft.training.regularizers.base import Scope
from jaxft.training.schedules import Schedule
from jaxft.training.targets import SingleLabel
from jaxft.training.unfreezing import unfreezing_schedule

NO_LEAVES: Mapping[str, int] = {}


def make_phases(
    model: Network,
    preprocessing: Preprocessing,
    training: Training,
    layers: Mapping[str, Match[LayerRate]],
    batch_stats: Sequence[str],
    num_train: int,
) -> tuple[Phase, ...]:
    """Returns the phases of training: an optional linear probe, then fine-tuning of all leaves that are not frozen.

    With gradual unfreezing, fine-tuning has several phases. Each phase trains one more stage than the phase before and
    continues from its state; all of them share one schedule.

    Args:
      model: the network.
      preprocessing: the preprocessing of its images.
      training: the config of training.
      layers: {parameter: factor of the learning rate or 'frozen', and the pattern of its rule}.
      batch_stats: names of the batch-norm statistics of the network.
      num_train: number of training images, which converts epochs to steps.

    Raises:
      UserError: the schedule, an epoch of unfreezing or a regularizer does not fit the network or the number of images.
    """
    _check_lengths(training, num_train)
    builder = _PhaseBuilder(model, preprocessing, training, layers, batch_stats, num_train)
    trained = {name: match.pattern for name, match in layers.items() if match.value != FROZEN}
    phases = []
    head = {name: pattern for name, pattern in trained.items() if model.in_head(name)}
    if training.linear_probe.epochs and head:  # a rule can freeze the head
        phases.append(builder.probe(head))
    if training.schedule.epochs or training.schedule.steps:
        phases += builder.fine_tuning(trained)
    return tuple(phases)


def _check_lengths(training: Training, num_train: int) -> None:
    schedule, size = training.schedule, training.batches.size
    lengths = {"schedule.epochs": schedule.epochs, "linear_probe.epochs": training.linear_probe.epochs}
    if schedule.steps is not None:
        lengths["schedule.steps"] = schedule.steps * size / num_train
    for name, epochs in lengths.items():
        if epochs >= MAX_EPOCHS or num_steps(num_train, epochs, size) >= MAX_STEPS:
            raise UserError(
                f"config field 'training.{name}' gives {epochs:,.0f} epochs of {num_train:,} images in batches of "
                f"{size:,}; training must be shorter than {MAX_EPOCHS:,} epochs and {MAX_STEPS:,} steps."
            )


def with_remat(phases: Iterable[Phase]) -> tuple[Phase, ...]:
    """Returns the phases with rematerialization of blocks in the backward pass, except in phases with L-BFGS."""
    return tuple(dataclasses.replace(phase, remat=not phase.is_full_batch) for phase in phases)


@dataclass(frozen=True, eq=False)
class _PhaseBuilder:
    """Builds the phases of a trial; the fields are the arguments of `make_phases`."""

    model: Network
    preprocessing: Preprocessing
    training: Training
    layers: Mapping[str, Match[LayerRate]]
    batch_stats: Sequence[str]
    num_train: int

    def steps(self, epochs: float) -> int:
        """Returns the number of steps in a number of epochs."""
        return num_steps(self.num_train, epochs, self.training.batches.size)

    def probe(self, head: Mapping[str, str]) -> Phase:
        """Returns the phase of the linear probe, which trains the leaves `head` without regularizers."""
        training = self.training
        shape, length = training.schedule.shape, self.steps(training.linear_probe.epochs)
        is_lbfgs = training.linear_probe.optimizer == LBFGS
        if is_lbfgs:
            shape, length = "constant", round(training.linear_probe.epochs)
        decays = tuple(map(self.steps, training.schedule.decay_epochs)) or training.schedule.decay_steps
        schedule = Schedule(shape, length, 0, decays if shape == "step" else ())
        optimizer = self.optimizer(head, schedule, LBFGS if is_lbfgs else training.optimizer.name, probe=True)
        phase = self.phase(optimizer)
        if not is_lbfgs:
            return phase
        num_rows = self.num_train * max(training.augmentation.views, 1)
        return dataclasses.replace(phase, batch_size=num_rows, num_micro_batches=1, sharpness=False, averaged=False)

    def fine_tuning(self, trained: Mapping[str, str]) -> list[Phase]:
        """Returns the phases that train the leaves `trained`: one, or several with gradual unfreezing."""
        training = self.training
        schedule = main_schedule(training, self.steps)
        if not training.layers.unfreeze_epochs:
            return [self.with_regularizers(self.phase(self.optimizer(trained, schedule)))]
        boundaries = (0, *map(self.steps, training.layers.unfreeze_epochs), schedule.num_steps)
        phases = []
        for part in unfreezing_schedule(training, self.model, trained, boundaries):
            trainable = {name: trained[name] for name in part.joined}
            phase = self.phase(self.optimizer(trainable, schedule, joined=part.joined))
            phases.append(self.with_regularizers(dataclasses.replace(phase, interval=part.interval)))
        return phases

    def optimizer(
        self,
        trained: Mapping[str, str],
        schedule: Schedule,
        kind: str = "",
        probe: bool = False,
        joined: Mapping[str, int] = NO_LEAVES,
    ) -> Optimizer:
        """Returns the static part of the optimizer of the leaves `trained`.

        Args:
          trained: {leaf: pattern of its rule}.
          schedule: the learning-rate schedule.
          kind: name of the optimizer; if empty, the optimizer of the config.
          probe: whether this is the optimizer of the linear probe.
          joined: {leaf: step at which it starts to train}; other leaves start at step 0.
        """
        config, names = self.training.optimizer, sorted(trained)
        depth_of = block_depths(self.model, self.layers)
        return Optimizer(
            kind or config.name,
            config.nesterov,
            schedule,
            groups=tuple((name, trained[name]) for name in names),
            depths=tuple((name, depth_of[name]) for name in names),
            probe=probe,
            joined=tuple((name, joined[name]) for name in names if joined.get(name)),
            clipped=config.clip_norm > 0 and kind != LBFGS,
            decayed=tuple(name for name in names if name in self.model.decayed),
        )

    def phase(self, optimizer: Optimizer) -> Phase:
        """Returns a phase that covers all steps of the schedule of `optimizer`, without regularizers."""
        training = self.training
        augmentation, batch_norm = training.augmentation, training.batch_norm
        prefix = frozen_prefix(self.model, dict(optimizer.groups))
        trained_blocks = self.model.blocks_after(prefix)
        tracked = tuple(name for name in self.batch_stats if block_of(name, self.model.blocks) in trained_blocks)
        return Phase(
            self.model,
            self.preprocessing,
            optimizer,
            prefix,
            tracked if batch_norm.statistics != FROZEN else (),
            training.batches.size,
            active_augmentations(augmentation),
            augmentation.views,
            mixes=tuple(name for name in ("mixup", "cutmix") if getattr(augmentation, name).alpha > 0),
            targets=SingleLabel(training.loss.name, training.loss.class_weights != "none"),
            num_micro_batches=training.batches.accumulate,
            sharpness=training.optimizer.sam_radius > 0,
            averaged=training.optimizer.ema_decay > 0,
            virtual_batch_size=batch_norm.virtual_batch_size,
            recalibrates=batch_norm.statistics == "recalibrated" and bool(tracked),
        )

    def with_regularizers(self, phase: Phase) -> Phase:
        """Returns `phase` with the regularizers that act in it."""
        grows = self.training.initialization.grow != "none"
        scope = Scope(self.model, tuple(self.layers), phase.trainable, phase.prefix, grows)
        return dataclasses.replace(phase, regularizers=make_regularizers(self.training, scope))


def main_schedule(training: Training, steps: Callable[[float], int]) -> Schedule:
    """Returns the schedule after the linear probe; `steps` maps a number of epochs to a number of steps.

    Raises:
      UserError: a field is in steps, and the warmup or a decay is not before the end of the schedule.
    """
    config = training.schedule
    length = config.steps or steps(config.epochs)
    warmup = config.warmup_steps or steps(config.warmup_epochs)
    decays = config.decay_steps or tuple(map(steps, config.decay_epochs))
    decays = decays if config.shape == "step" else ()
    in_steps = bool(config.steps or config.warmup_steps or config.decay_steps)
    for name, step in (("warmup", warmup), *(("decay", step) for step in decays)):
        if in_steps and length and step >= length:
            raise UserError(
                f"config field 'training.schedule.{name}_steps' (or {name}_epochs) gives step {step}, but the schedule "
                f"has {length} steps; use a smaller value."
            )
    return Schedule(config.shape, length, warmup, decays)


def block_depths(model: Network, names: Iterable[str]) -> dict[str, int]:
    """Returns {parameter: depth}: the number of blocks from the head (depth 0) down to the block of the parameter.

    Blocks without parameters do not count.
    """
    blocks_of_names = {name: block_of(name, model.blocks) for name in names}
    with_parameters = set(blocks_of_names.values())
    blocks = [block for block in reversed(model.blocks) if block in with_parameters]
    return {name: blocks.index(block) for name, block in blocks_of_names.items()}


def frozen_prefix(model: Network, trained: Iterable[str]) -> str | None:
    """Returns the last block of the frozen prefix; None if the first block has trainable leaves.

    The prefix is all blocks before the first block with trainable leaves. `trained` has the names of these leaves.
    """
    trained_blocks = {block_of(name, model.blocks) for name in trained}
    first = next((i for i, block in enumerate(model.blocks) if block in trained_blocks), len(model.blocks))
    return model.blocks[first - 1] if first else None
