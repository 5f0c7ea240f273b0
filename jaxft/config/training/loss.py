"""The section `training.loss`: the loss function and the weight of each class."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import setting
from jaxft.config.sections import extended_by
from jaxft.core.registries import LOSSES


@extended_by(LOSSES)
@dataclass(frozen=True)
class LossConfig:
    """The loss function and the weight of each class."""

    name: str = setting("cross_entropy", "loss function", registry=LOSSES)
    label_smoothing: float = setting(
        0.0,
        "label smoothing: fraction of each label that is spread evenly over all classes",
        traced=True,
        at_least=0,
        below=1,
    )
    class_weights: Literal["none", "inverse", "effective"] = setting(
        "none",
        "weights of the classes in the loss: equal; inverse to the number n of training images of the class; or "
        "inverse to their effective number",
    )
    beta: float = setting(
        0.999,
        "with class_weights 'effective', beta of the effective number of n images, (1 - beta^n) / (1 - beta) (Cui et "
        "al. 2019)",
        traced=True,
        at_least=0,
        below=1,
    )
