"""The registry of metrics, which measure the quality of predictions.

A metric is a function of labels and predictions, both `[n]` class indices. To add one, register it:

    METRICS.register(
        "worst_class",
        Metric(
            lambda labels, predictions: min((predictions[labels == label] == label).mean() for label in set(labels)),
            title="worst class",
        ),
        help="lowest accuracy of a class",
    )

Records and results of trials then contain `val_worst_class` and `test_worst_class`, and learning curves, tables,
reports, `jaxft finetune` and `jaxft predict` show the metric. Selection on validation always uses 'accuracy'.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxft.core.registry import Registry
from jaxft.core.text import number, number_interval, percent, percent_interval

if TYPE_CHECKING:
    import numpy as np

SUBSETS = {"val": "validation", "test": "test"}  # of images: name in records and columns -> name in tables


@dataclass(frozen=True)
class Metric:
    """A measure of the quality of predictions.

    Attributes:
      compute: returns the metric from labels and predictions, `[n]` class indices each, with n at least 1.
      title: heading in tables.
      label: name in sentences; if empty, `title`.
      is_share: whether the metric is a fraction in [0, 1]; fractions are shown in percent.
      only_uneven: whether the metric is shown only if the numbers of images per class differ.
    """

    compute: "Callable[[np.ndarray, np.ndarray], float]"
    title: str
    label: str = ""
    is_share: bool = True
    only_uneven: bool = False

    @property
    def unit(self) -> str:
        """Returns the unit of the strings from `format`: '%' or ''."""
        return "%" if self.is_share else ""

    @property
    def format(self) -> Callable[[float | None], str]:
        """Returns the function that formats a value without its unit."""
        return percent if self.is_share else number

    @property
    def format_interval(self) -> Callable[[tuple[float, float, int]], str]:
        """Returns the function that formats (mean, half width of the interval, number of values) without the unit."""
        return percent_interval if self.is_share else number_interval

    def describe(self, value: float | None, separator: str = " ") -> tuple[str, str]:
        """Returns the name of the metric and a value with its unit, such as ('mean over the classes', '83.0 %')."""
        return self.label or self.title, separator.join(filter(None, (self.format(value), self.unit)))


def accuracy(labels: "np.ndarray", predictions: "np.ndarray") -> float:
    """Returns the fraction of correct predictions, from `labels: [n]` and `predictions: [n]`."""
    return float((predictions == labels).mean())


def mean_per_class(labels: "np.ndarray", predictions: "np.ndarray") -> float:
    """Returns the mean over classes of the accuracy on each class, from `labels: [n]` and `predictions: [n]`.

    All classes have the same weight, regardless of their numbers of images.
    """
    import numpy as np  # not at the top, because every command imports this module and NumPy imports slowly

    _, class_index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return float((np.bincount(class_index, weights=predictions == labels) / counts).mean())


METRICS: Registry[Metric] = Registry("metric")
METRICS.register("accuracy", Metric(accuracy, title="accuracy"), help="accuracy in [0, 1]")
METRICS.register(
    "mean_per_class",
    Metric(mean_per_class, title="per class", label="mean over the classes", only_uneven=True),
    help="mean over classes of the accuracy on each class",
)


def compute_metrics(labels: "np.ndarray", predictions: "np.ndarray") -> dict[str, float]:
    """Returns all metrics by name, from `labels: [n]` and `predictions: [n]`; all are nan if n is 0."""
    return {
        name: float(entry.value.compute(labels, predictions)) if len(labels) else math.nan
        for name, entry in METRICS.items()
    }


def field_names() -> tuple[str, ...]:
    """Returns the names of all metrics in records: 'val_accuracy', 'test_accuracy', 'val_mean_per_class', ..."""
    return tuple(f"{subset}_{name}" for name in METRICS for subset in SUBSETS)


def record_fields(val: Mapping[str, float] | None, test: Mapping[str, float] | None) -> dict[str, float | None]:
    """Returns the metrics on validation and test images by their names in records, such as 'val_accuracy'.

    A metric is None if it is not finite. If `val` or `test` is None, all its metrics are None.
    """
    subsets = {"val": val, "test": test}
    values = {
        f"{subset}_{name}": math.nan if metrics is None else metrics[name]
        for name in METRICS
        for subset, metrics in subsets.items()
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
