"""The section `training.batch_norm`: batch normalization in fine-tuning."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import MAX_BATCH, setting
from jaxft.core.errors import UserError


@dataclass(frozen=True)
class BatchNormConfig:
    """Batch normalization in fine-tuning."""

    statistics: Literal["tracked", "frozen", "recalibrated"] = setting(
        "tracked",
        "running statistics of batch normalization above the frozen layers: updated in training; frozen; or updated, "
        "and at the end recomputed over all training images",
    )
    affine: Literal["tuned", "frozen"] = setting(
        "tuned", "whether scales and shifts of batch normalization are tuned or frozen"
    )
    virtual_batch_size: int | None = setting(
        None,
        "images that batch normalization normalizes together in training; if None, the whole batch",
        at_least=1,
        at_most=MAX_BATCH,
    )

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        if self.virtual_batch_size is not None and self.statistics == "frozen":
            raise UserError(
                f"config field '{where}.virtual_batch_size' is {self.virtual_batch_size}, but '{where}.statistics' is "
                "'frozen', so batch statistics are not used; leave one of them out."
            )
