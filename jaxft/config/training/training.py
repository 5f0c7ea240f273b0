"""The section `training`, and checks that concern several of its sections."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxft.config.sections import sections_of
from jaxft.config.training.augmentation import AugmentationConfig
from jaxft.config.training.batch_norm import BatchNormConfig
from jaxft.config.training.batches import BatchesConfig
from jaxft.config.training.classifier import ClassifierConfig
from jaxft.config.training.initialization import InitializationConfig
from jaxft.config.training.layers import LayersConfig
from jaxft.config.training.linear_probe import LinearProbeConfig
from jaxft.config.training.loss import LossConfig
from jaxft.config.training.optimizer import OptimizerConfig
from jaxft.config.training.regularization import RegularizationConfig
from jaxft.config.training.schedule import ScheduleConfig
from jaxft.config.training.selection import SelectionConfig
from jaxft.config.values import from_dict, get_at
from jaxft.core.errors import UserError
from jaxft.core.text import shown


@dataclass(frozen=True)
class Training:
    """How a network is trained."""

    initialization: InitializationConfig = field(default_factory=InitializationConfig)
    layers: LayersConfig = field(default_factory=LayersConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batches: BatchesConfig = field(default_factory=BatchesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    linear_probe: LinearProbeConfig = field(default_factory=LinearProbeConfig)
    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Training":
        """Returns a section with the values of `fields`, by dotted name; all other fields have their defaults.

        Example:
          >>> Training.of({"optimizer.momentum": 0.5})

        Raises:
          UserError: a field is unknown, or its value is not allowed.
        """
        return from_dict(cls, fields, "training")

    @property
    def fine_tunes(self) -> bool:
        """Returns whether there is fine-tuning, after the linear probe if there is one."""
        return bool(self.schedule.epochs or self.schedule.steps)

    @property
    def probes_by_lbfgs(self) -> bool:
        """Returns whether there is a linear probe with L-BFGS."""
        return bool(self.linear_probe.epochs) and self.linear_probe.optimizer == "lbfgs"

    def check(self, where: str) -> None:
        """Raises a `UserError` if sections contradict each other."""
        self._check_lengths(where)
        self._check_images(where)
        for name, section in sections_of(self.regularization).items():
            section.check_training(self, where, f"{where}.regularization.{name}")
        if self.classifier.kind != "network" and self.selection.test_crops == "ten":
            raise UserError(
                f"config field '{where}.selection.test_crops' is 'ten', which is only for networks; the classifier "
                f"{self.classifier.kind!r} needs 'center'."
            )

    def _check_lengths(self, where: str) -> None:
        if not self.fine_tunes and self.classifier.kind == "network" and not self.linear_probe.epochs:
            raise UserError(
                f"config fields '{where}.schedule.epochs' and '{where}.linear_probe.epochs' are both 0, so nothing is "
                "trained; set one of them."
            )
        unfreeze_epochs = self.layers.unfreeze_epochs
        if unfreeze_epochs and not self.fine_tunes:
            raise UserError(
                f"config field '{where}.layers.unfreeze_epochs' is {shown(list(unfreeze_epochs))}, but "
                f"'{where}.schedule.epochs' is 0, so no stage is unfrozen; leave one of them out."
            )
        virtual_size, micro_size = self.batch_norm.virtual_batch_size, self.batches.micro_batch_size
        if virtual_size is not None and micro_size % virtual_size:
            divisor = f" / '{where}.batches.accumulate'" if self.batches.accumulate > 1 else ""
            raise UserError(
                f"config field '{where}.batch_norm.virtual_batch_size' is {virtual_size}; it must divide "
                f"'{where}.batches.size'{divisor}, {micro_size}."
            )

    def _check_images(self, where: str) -> None:
        """Checks that augmentation and sampling are compatible with fixed views and with the linear probe."""
        augmentation = self.augmentation
        if self.probes_by_lbfgs and augmentation.varies and not augmentation.views:
            raise UserError(
                f"config field '{where}.linear_probe.optimizer' is 'lbfgs', which needs the same images in every "
                f"iteration; set '{where}.augmentation.views', or turn the augmentation off."
            )
        if augmentation.views and not augmentation.varies:
            raise UserError(
                f"config field '{where}.augmentation.views' is {augmentation.views}, but all views are equal without "
                "augmentation; turn on flip, crop.scale_min or another augmentation."
            )
        for name in ("mixup", "cutmix"):
            alpha = getattr(augmentation, name).alpha
            if alpha and (augmentation.views or self.probes_by_lbfgs):
                other = "augmentation.views" if augmentation.views else "linear_probe.optimizer"
                raise UserError(
                    f"config field '{where}.augmentation.{name}.alpha' is {alpha:g}, which mixes new images in every "
                    f"batch, but '{where}.{other}' {get_at(self, other)!r} needs the same images in every epoch; keep "
                    "one of them."
                )
        if self.probes_by_lbfgs and self.batches.sampling == "balanced":
            raise UserError(
                f"config field '{where}.batches.sampling' is 'balanced', but the linear probe 'lbfgs' uses all images "
                f"in each step; set '{where}.loss.class_weights' to 'inverse' instead."
            )
        if self.selection.test_crops == "ten" and augmentation.crop.size_px is None:
            raise UserError(
                f"config field '{where}.selection.test_crops' is 'ten', which crops larger images; set "
                f"'{where}.augmentation.crop.size_px' to less than the size_px of the images."
            )
