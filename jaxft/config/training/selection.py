"""The section `training.selection`: which weights are kept, and how they are tested."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import setting


@dataclass(frozen=True)
class SelectionConfig:
    """Which weights are kept, and how they are tested."""

    weights: Literal["best", "last"] = setting(
        "best", "weights that are kept: those of the epoch with the best validation accuracy, or the last"
    )
    test_crops: Literal["center", "ten"] = setting(
        "center",
        "crops of larger test images: the center, or ten (corners and center, flipped too) whose probabilities are "
        "averaged",
    )
