"""Accuracy of predictions of pictures whose folders are named after classes."""

import collections
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from jaxft.core.metrics import compute_metrics
from jaxft.recipes.predict import Prediction


@dataclass
class SubsetTally:
    """Counts of the pictures of one part of a data set ('train', 'val', 'test'), or of all (an empty name).

    Attributes:
      subset: the part's name.
      total: pictures whose folder is named after a class.
      top_1: those of them whose class is the most probable one.
      top_k: those of them whose class is among the `k` most probable ones.
      k: how many classes are predicted.
      truths: the class that the folder of each of them is named after.
      predicted: the most probable class of each of them.
    """

    subset: str
    total: int = 0
    top_1: int = 0
    top_k: int = 0
    k: int = 0
    truths: list[str] = field(default_factory=list)
    predicted: list[str] = field(default_factory=list)

    def add(self, prediction: Prediction) -> None:
        """Counts a picture."""
        self.total += 1
        self.top_1 += prediction.classes[0] == prediction.truth
        self.top_k += prediction.truth in prediction.classes
        self.k = len(prediction.classes)
        self.truths.append(prediction.truth)
        self.predicted.append(prediction.classes[0])

    @property
    def is_uneven(self) -> bool:
        """Tells whether some classes have more pictures than others."""
        return len({*collections.Counter(self.truths).values()}) > 1

    def metrics(self) -> dict[str, float]:
        """Returns all metrics by name."""
        import numpy as np

        _, numbers = np.unique([*self.truths, *self.predicted], return_inverse=True)
        return compute_metrics(numbers[: self.total], numbers[self.total :])


class Tally:
    """Counts pictures, those that cannot be read, and for each part of the data how many are predicted right."""

    def __init__(self) -> None:
        self.unread = self.total = 0
        self.subsets: dict[str, SubsetTally] = {}

    def add(self, prediction: Prediction) -> None:
        """Counts a picture."""
        from jaxft.data.readers.file_names import SUBSETS

        self.total += 1
        self.unread += bool(prediction.problem)
        if prediction.truth and not prediction.problem:
            subset = SUBSETS.get(PurePosixPath(prediction.file).parent.parent.name.lower(), "")
            self.subsets.setdefault(subset, SubsetTally(subset)).add(prediction)
