"""The section `training.classifier`: the network, or a classifier of its features."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import setting
from jaxft.config.sections import extended_by
from jaxft.core.errors import UserError
from jaxft.core.registries import CLASSIFIERS, POOLINGS
from jaxft.core.text import shown


@extended_by(CLASSIFIERS)
@dataclass(frozen=True)
class ClassifierConfig:
    """The trained model: the network, or a classifier of the features of the network before training."""

    kind: str = setting(
        "network", "trained model: the network itself, or a classifier of its features", registry=CLASSIFIERS
    )
    tap: str | None = setting(
        None, "stage or block whose output the classifier uses as features; if None, the block below the head"
    )
    pooling: str = setting("average", "pooling of feature maps for the classifier (docs/factors.md)", registry=POOLINGS)
    cross_tap: str | None = setting(
        None,
        "second stage or block of the pooling 'cross_layer', whose feature map is weighted by the feature map of tap; "
        "if None, the block below tap",
    )
    scaling: Literal["none", "l2", "standard"] = setting(
        "l2",
        "scaling of features for the classifier: 'l2' to norm 1 for each image; 'standard' to mean 0 and standard "
        "deviation 1 over the training images",
    )
    penalties: tuple[float, ...] = setting(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "L2 penalties 1 / (C n) of the classifiers 'logistic' and 'svm', for n training images; with several, "
        "validation selects one",
        above=0,
    )
    num_neighbors: tuple[int, ...] = setting(
        (1, 3, 5, 10, 20),
        "numbers of neighbors k of the classifier 'knn'; with several, validation selects one",
        at_least=1,
    )
    metric: Literal["cosine", "euclidean"] = setting(
        "cosine", "distance between features in the classifiers 'knn' and 'class_mean'"
    )

    @property
    def is_network(self) -> bool:
        """Returns whether the network itself is trained."""
        return self.kind == "network"

    def check(self, where: str) -> None:
        """Raises a `UserError` if a field is set that the network does not use, or if a list is empty."""
        defaults = ClassifierConfig()
        unused = next((name for name in ("tap", "pooling") if getattr(self, name) != getattr(defaults, name)), None)
        if self.is_network and unused is not None:
            raise UserError(
                f"config field '{where}.{unused}' is {shown(getattr(self, unused))}, which only classifiers of "
                f"features use; set '{where}.kind' to one, such as 'logistic'."
            )
        for name in ("penalties", "num_neighbors"):
            if not getattr(self, name):
                raise UserError(f"config field '{where}.{name}' is empty; give at least one value.")
