"""Paired tests over seeds, and the correction for several tests."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.analysis.statistics.intervals import Interval, mean_interval


class Difference(NamedTuple):
    """A mean paired difference with its interval, and the p-value of no difference (nan for fewer than two pairs)."""

    interval: Interval
    p_value: float


def paired_differences(first: Mapping[Any, float], second: Mapping[Any, float]) -> np.ndarray:
    """Returns first minus second for each common key, in the order of `first`: [pairs]. Missing values are left out."""
    differences = np.array([first[key] - second[key] for key in first if key in second], dtype=np.float64)
    return differences[~np.isnan(differences)]


def paired_difference(first: Mapping[Any, float], second: Mapping[Any, float], confidence: float = 0.95) -> Difference:
    """Returns the mean of first minus second over their common keys, with its Student t interval and p-value.

    The p-value is from the two-sided paired t test, t = mean / (s / sqrt(n)) with n - 1 degrees of freedom (Student
    1908). If all differences are equal, the p-value is 1 for zero and 0 otherwise.
    """
    differences = paired_differences(first, second)
    interval = mean_interval(differences, confidence)
    if interval.num_values < 2:
        return Difference(interval, math.nan)
    from scipy.stats import ttest_1samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # if all differences are equal
        p_value = float(ttest_1samp(differences, 0).pvalue)
    return Difference(interval, 1.0 if math.isnan(p_value) else p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for multiple tests by Holm's method, in the order of `p_values`.

    The i-th smallest of m p-values is multiplied by m - i + 1, bounded by 1, and raised to the adjusted value of the
    smaller ones. Rejection below a level then has at most this probability of any false rejection. Missing values (nan)
    stay nan and are not counted.

    Reference: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted = list(p_values)
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
