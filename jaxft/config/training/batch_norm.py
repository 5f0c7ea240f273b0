"""The section `training.batch_norm`: what fine-tuning does with batch normalization."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import setting
from jaxft.core.errors import UserError


@dataclass(frozen=True)
class BatchNormConfig:
    """What fine-tuning does with batch normalization."""

    statistics: Literal["tracked", "frozen", "recalibrated"] = setting(
        "tracked",
        "running statistics above the frozen layers: updated in training; frozen; or updated, and at the end "
        "replaced by those of all training images",
    )
    affine: Literal["tuned", "frozen"] = setting("tuned", "whether scales and shifts of batch normalization train")
    virtual_batch_size: int | None = setting(
        None, "images that are normalized together in training; if None, the whole batch", at_least=1
    )

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        if self.virtual_batch_size is not None and self.statistics == "frozen":
            raise UserError(
                f"config field '{where}.virtual_batch_size' is {self.virtual_batch_size}, but '{where}.statistics' is "
                "'frozen': the statistics of no batch are used; leave one of them out."
            )
