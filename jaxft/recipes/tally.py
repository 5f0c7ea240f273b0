"""Accuracy of predictions for images whose folders are named after classes."""

import collections
from dataclasses import dataclass, field

from jaxft.core.metrics import compute_metrics
from jaxft.recipes.predict import Prediction


@dataclass
class SubsetTally:
    """Counts of the images of one split whose folder is named after a class.

    Attributes:
      subset: the split: 'train', 'val' or 'test', or '' if the data has no splits.
      total: number of images.
      top_1: number of images whose most probable class is correct.
      top_k: number of images whose class is among the `k` most probable classes.
      k: number of classes in each prediction.
      truths: class of each image, from its folder.
      predicted: most probable class of each image.
    """

    subset: str
    total: int = 0
    top_1: int = 0
    top_k: int = 0
    k: int = 0
    truths: list[str] = field(default_factory=list)
    predicted: list[str] = field(default_factory=list)

    def add(self, prediction: Prediction) -> None:
        """Counts an image."""
        self.total += 1
        self.top_1 += prediction.classes[0] == prediction.truth
        self.top_k += prediction.truth in prediction.classes
        self.k = len(prediction.classes)
        self.truths.append(prediction.truth)
        self.predicted.append(prediction.classes[0])

    @property
    def is_uneven(self) -> bool:
        """Returns whether the number of images differs between classes."""
        return len({*collections.Counter(self.truths).values()}) > 1

    def metrics(self) -> dict[str, float]:
        """Returns all metrics (`jaxft.core.metrics`) by name."""
        import numpy as np

        _, numbers = np.unique([*self.truths, *self.predicted], return_inverse=True)
        return compute_metrics(numbers[: self.total], numbers[self.total :])


class Tally:
    """Counts images and correct predictions.

    Attributes:
      total: number of images.
      unread: number of images that cannot be read.
      subsets: counts of each split, by name.
    """

    def __init__(self) -> None:
        self.unread = self.total = 0
        self.subsets: dict[str, SubsetTally] = {}

    def add(self, prediction: Prediction) -> None:
        """Counts an image."""
        self.total += 1
        self.unread += bool(prediction.problem)
        if prediction.truth and not prediction.problem:
            self.subsets.setdefault(prediction.subset, SubsetTally(prediction.subset)).add(prediction)
