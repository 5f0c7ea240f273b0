"""Accuracy of predictions of pictures whose folders are named after classes."""

import collections
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from jaxft.recipes.predict import Prediction


@dataclass
class PartTally:
    """Counts of the pictures of one part of a data set ('train', 'val', 'test'), or of all (an empty name).

    Attributes:
      part: the part's name.
      total: pictures whose folder is named after a class.
      top_1: those of them whose class is the most probable one.
      top_k: those of them whose class is among the `k` most probable ones.
      k: how many classes are predicted.
      by_class: (right, total) for each class.
    """

    part: str
    total: int = 0
    top_1: int = 0
    top_k: int = 0
    k: int = 0
    by_class: dict[str, tuple[int, int]] = field(default_factory=lambda: collections.defaultdict(lambda: (0, 0)))

    def add(self, prediction: Prediction) -> None:
        """Counts a picture."""
        is_right = prediction.classes[0] == prediction.truth
        self.total += 1
        self.top_1 += is_right
        self.top_k += prediction.truth in prediction.classes
        self.k = len(prediction.classes)
        right, total = self.by_class[prediction.truth]
        self.by_class[prediction.truth] = (right + is_right, total + 1)

    @property
    def is_uneven(self) -> bool:
        """Tells whether some classes have more pictures than others."""
        return len({total for _, total in self.by_class.values()}) > 1

    @property
    def mean_per_class(self) -> float:
        """Returns the accuracy on each class, averaged over the classes."""
        return sum(right / total for right, total in self.by_class.values()) / len(self.by_class)


class Tally:
    """Counts pictures, those that cannot be read, and for each part of the data how many are predicted right."""

    def __init__(self) -> None:
        self.unread = self.total = 0
        self.parts: dict[str, PartTally] = {}

    def add(self, prediction: Prediction) -> None:
        """Counts a picture."""
        from jaxft.data.readers.file_names import PARTS

        self.total += 1
        self.unread += bool(prediction.problem)
        if prediction.truth and not prediction.problem:
            part = PARTS.get(PurePosixPath(prediction.file).parent.parent.name.lower(), "")
            self.parts.setdefault(part, PartTally(part)).add(prediction)
