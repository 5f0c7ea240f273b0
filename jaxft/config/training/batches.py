"""The section `training.batches`: size and sampling of batches."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import MAX_BATCH, setting
from jaxft.core.errors import UserError


@dataclass(frozen=True)
class BatchesConfig:
    """Size and sampling of the training batches."""

    size: int = setting(32, "images in a training batch", at_least=1, at_most=MAX_BATCH)
    sampling: Literal["uniform", "balanced"] = setting(
        "uniform", "sampling of training batches: every image equally often, or every class equally often"
    )
    accumulate: int = setting(
        1,
        "gradient accumulation: number of equal micro-batches per step; batch normalization and BSS use one "
        "micro-batch at a time",
        at_least=1,
        at_most=MAX_BATCH,
    )

    @property
    def micro_batch_size(self) -> int:
        """Returns the number of images in a micro-batch."""
        return self.size // self.accumulate

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        if self.size % self.accumulate:
            raise UserError(
                f"config field '{where}.accumulate' is {self.accumulate}; it must divide '{where}.size', {self.size}."
            )
