"""Metrics: numbers that say how good predictions are. A registry.

A metric is a function of labels and predictions, `[n]` class numbers each. To add one, register it:

    METRICS.register(
        "worst_class",
        Metric(
            lambda labels, predictions: min((predictions[labels == label] == label).mean() for label in set(labels)),
            title="worst class",
        ),
        help="accuracy on the class with the lowest one",
    )

It is then in the record of every trial and in its results, as `val_worst_class` and `test_worst_class`, in the curves
of each epoch, in the tables and on the page of a study, and in what `jaxft finetune` and `jaxft predict` report.
Validation selects by 'accuracy'.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxft.core.registry import Registry
from jaxft.core.text import number, number_interval, percent, percent_interval

if TYPE_CHECKING:
    import numpy as np

SUBSETS = {"val": "validation", "test": "test"}  # parts of the images: in names of records and columns, and in tables


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are.

    Attributes:
      of: returns the metric, from labels and predictions: class numbers `[n]` each, of one image at least.
      title: its heading in tables.
      label: what sentences call it; if empty, `title`.
      is_share: whether it is a share in [0, 1], which people are shown in percent.
      only_uneven: whether people are shown it only where some classes have more images than others.
    """

    of: "Callable[[np.ndarray, np.ndarray], float]"
    title: str
    label: str = ""
    is_share: bool = True
    only_uneven: bool = False

    @property
    def unit(self) -> str:
        """Returns the unit of the values that `format` writes."""
        return "%" if self.is_share else ""

    @property
    def format(self) -> Callable[[float | None], str]:
        """Returns the function that writes a value, without its unit."""
        return percent if self.is_share else number

    @property
    def format_interval(self) -> Callable[[tuple[float, float, int]], str]:
        """Returns the function that writes (mean, half width of the interval, number of values), without the unit."""
        return percent_interval if self.is_share else number_interval

    def describe(self, value: float | None, separator: str = " ") -> tuple[str, str]:
        """Returns what sentences call the metric, and a value with its unit: ('mean over the classes', '83.0 %')."""
        return self.label or self.title, separator.join(filter(None, (self.format(value), self.unit)))


def accuracy(labels: "np.ndarray", predictions: "np.ndarray") -> float:
    """Returns the share of images that are predicted right, from `labels: [n]` and `predictions: [n]`."""
    return float((predictions == labels).mean())


def mean_per_class(labels: "np.ndarray", predictions: "np.ndarray") -> float:
    """Returns the mean over the classes of `labels: [n]` of the share of each class's images that are predicted right.

    Every class counts as much, however many images it has.
    """
    import numpy as np  # late: the command line reads the registry before it knows what it needs

    _, class_index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return float((np.bincount(class_index, weights=predictions == labels) / counts).mean())


METRICS: Registry[Metric] = Registry("metric")
METRICS.register("accuracy", Metric(accuracy, title="accuracy"), help="accuracy in [0, 1]")
METRICS.register(
    "mean_per_class",
    Metric(mean_per_class, title="per class", label="mean over the classes", only_uneven=True),
    help="mean over the classes of the accuracy on each, however many images it has",
)


def compute_metrics(labels: "np.ndarray", predictions: "np.ndarray") -> dict[str, float]:
    """Returns all metrics of predictions by name, from `labels: [n]` and `predictions: [n]`; nan where n is zero."""
    return {
        name: float(entry.value.of(labels, predictions)) if len(labels) else math.nan for name, entry in METRICS.items()
    }


def field_names() -> tuple[str, ...]:
    """Returns the names of all metrics in records: 'val_accuracy', 'test_accuracy', 'val_mean_per_class', ..."""
    return tuple(f"{subset}_{name}" for name in METRICS for subset in SUBSETS)


def record_fields(val: Mapping[str, float] | None, test: Mapping[str, float] | None) -> dict[str, float | None]:
    """Returns the metrics on validation and on test images by their names in records.

    A metric is None if it is no finite number, and all of a part are None if the part is None.
    """
    subsets = {"val": val, "test": test}
    values = {
        f"{subset}_{name}": math.nan if of is None else of[name] for name in METRICS for subset, of in subsets.items()
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
