"""The section `training.schedule`: length of fine-tuning and shape of the learning rate."""

import dataclasses
from dataclasses import dataclass

from jaxft.config.fields import MAX_EPOCHS, MAX_STEPS, setting
from jaxft.core.errors import UserError
from jaxft.core.registries import SCHEDULES


@dataclass(frozen=True)
class ScheduleConfig:
    """The length of fine-tuning and the shape of the learning rate. Times are in epochs or in steps."""

    shape: str = setting(
        "cosine",
        "shape of the learning rate over time; 'onecycle' rises to the peak during the warmup and then falls; 'range' "
        "grows geometrically from decay_factor times the peak to the peak",
        registry=SCHEDULES,
    )
    epochs: float = setting(
        20.0, "epochs of fine-tuning after the linear probe; 0 skips fine-tuning", at_least=0, below=MAX_EPOCHS
    )
    steps: int | None = setting(
        None, "steps of fine-tuning, given instead of schedule.epochs", at_least=1, below=MAX_STEPS
    )
    warmup_epochs: float = setting(
        0.0, "warmup: epochs in which the learning rate rises to its peak", at_least=0, below=MAX_EPOCHS
    )
    warmup_steps: int = setting(
        0,
        "warmup: steps in which the learning rate rises to its peak, given instead of warmup_epochs",
        at_least=0,
        below=MAX_STEPS,
    )
    decay_epochs: tuple[float, ...] = setting(
        (), "epochs after which the shape 'step' lowers the learning rate", above=0, below=MAX_EPOCHS
    )
    decay_steps: tuple[int, ...] = setting(
        (),
        "steps after which the shape 'step' lowers the learning rate, given instead of decay_epochs",
        at_least=1,
        below=MAX_STEPS,
    )
    decay_factor: float = setting(
        0.1, "factor by which the shape 'step' lowers the learning rate", traced=True, above=0, at_most=1
    )

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields contradict each other, as far as known without the number of images."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for in_steps, in_epochs in (
            ("steps", "epochs"),
            ("warmup_steps", "warmup_epochs"),
            ("decay_steps", "decay_epochs"),
        ):
            if all(getattr(self, name) != defaults[name] for name in (in_steps, in_epochs)):
                raise UserError(f"'{where}.{in_steps}' and '{where}.{in_epochs}' are both given; keep one of them.")
        if self.shape == "step" and not self.decay_epochs and not self.decay_steps:
            raise UserError(
                f"config field '{where}.decay_epochs' is empty, but '{where}.shape' is 'step'; give decay_epochs or "
                "decay_steps."
            )
        if self.steps is not None:
            return
        late = [at for at in self.decay_epochs if at >= self.epochs]
        if self.shape == "step" and late:
            raise UserError(
                f"config field '{where}.decay_epochs' contains {late[0]:g}; it must be below '{where}.epochs', "
                f"{self.epochs:g}."
            )
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise UserError(
                f"config field '{where}.warmup_epochs' is {self.warmup_epochs:g}; it must be below '{where}.epochs', "
                f"{self.epochs:g}."
            )
