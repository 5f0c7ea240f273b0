"""The section `training.selection`: the selected weights, and how they are tested."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import setting


@dataclass(frozen=True)
class SelectionConfig:
    """The selected weights, and how they are tested."""

    weights: Literal["best", "last"] = setting(
        "best",
        "selected weights: those after the epoch with the best validation accuracy ('best'), or after the last epoch "
        "('last')",
    )
    test_crops: Literal["center", "ten"] = setting(
        "center",
        "crops of larger test images: the center; or ten crops (corners and center, each also flipped) with averaged "
        "probabilities",
    )
