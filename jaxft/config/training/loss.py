"""The section `training.loss`: the loss of an image, and the weight of each class."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import setting
from jaxft.config.sections import extended_by
from jaxft.core.registries import LOSSES


@extended_by(LOSSES)
@dataclass(frozen=True)
class LossConfig:
    """The loss of an image, and the weight of each class in it."""

    name: str = setting("cross_entropy", "loss of an image", registry=LOSSES)
    label_smoothing: float = setting(
        0.0, "fraction of each label that is spread over all classes", traced=True, at_least=0, below=1
    )
    class_weights: Literal["none", "inverse", "effective"] = setting(
        "none",
        "weight of a class in the loss: equal; by the inverse of its number of training images; or of their "
        "effective number",
    )
    beta: float = setting(
        0.999,
        "beta of the effective number of images, (1 - beta^n) / (1 - beta) (Cui et al. 2019)",
        traced=True,
        at_least=0,
        below=1,
    )
