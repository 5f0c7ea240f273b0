"""The section `training.classifier`: the network, or a classifier of its features."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import setting
from jaxft.config.sections import extended_by
from jaxft.core.errors import UserError
from jaxft.core.registries import CLASSIFIERS, POOLINGS


@extended_by(CLASSIFIERS)
@dataclass(frozen=True)
class ClassifierConfig:
    """What is trained: the network, or a classifier of the features that it has at the start."""

    kind: str = setting(
        "network", "what is trained: the network, or a classifier of its features", registry=CLASSIFIERS
    )
    tap: str | None = setting(
        None, "stage or block whose output is the classifier's features; if None, the block below the head"
    )
    pooling: str = setting(
        "average", "pooling of a feature map for the classifier (docs/factors.md)", registry=POOLINGS
    )
    cross_tap: str | None = setting(
        None,
        "stage or block whose feature map the pooling 'cross_layer' weights by that of tap; if None, the block below "
        "tap",
    )
    scaling: Literal["none", "l2", "standard"] = setting(
        "l2",
        "scaling of features: 'l2' to length 1 for each image; 'standard' to mean 0 and deviation 1 over the "
        "training images",
    )
    penalties: tuple[float, ...] = setting(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "L2 penalties 1 / (C n) of 'logistic' and 'svm'; with several, validation selects one",
        above=0,
    )
    num_neighbors: tuple[int, ...] = setting(
        (1, 3, 5, 10, 20), "numbers of neighbors k of 'knn'; with several, validation selects one", at_least=1
    )
    metric: Literal["cosine", "euclidean"] = setting("cosine", "distance of 'knn' and 'class_mean'")

    @property
    def is_network(self) -> bool:
        """Returns whether the network itself is trained."""
        return self.kind == "network"

    def check(self, where: str) -> None:
        """Raises a `UserError` if a field has no use, or a list is empty."""
        defaults = ClassifierConfig()
        given = next((name for name in ("tap", "pooling") if getattr(self, name) != getattr(defaults, name)), None)
        if self.is_network and given is not None:
            raise UserError(
                f"config field '{where}.{given}' is {getattr(self, given)!r}, which is for classifiers of features; "
                f"give '{where}.kind' one, such as 'logistic'."
            )
        for name in ("penalties", "num_neighbors"):
            if not getattr(self, name):
                raise UserError(f"config field '{where}.{name}' is empty; give one value or more.")
