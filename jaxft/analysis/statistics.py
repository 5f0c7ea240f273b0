"""Means, intervals and paired differences over seeds."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A confidence interval.

    Attributes:
      mean: the mean.
      half_width: half the width of the interval; nan for fewer than two values.
      num_values: the number of values.
    """

    mean: float
    half_width: float
    num_values: int


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Returns the mean of `values: [n]` and its Student t interval (Student 1908). Missing values (nan) are ignored.

    half_width = t(1 - (1 - confidence) / 2, n - 1) s / sqrt(n), where s is the sample standard deviation (n - 1 in the
    denominator).
    """
    present = np.asarray(values, dtype=np.float64)
    present = present[~np.isnan(present)]
    if len(present) == 0:
        return Interval(math.nan, math.nan, 0)
    if len(present) == 1:
        return Interval(float(present[0]), math.nan, 1)
    from scipy.special import stdtrit  # scipy.stats takes three times as long to import

    quantile = stdtrit(len(present) - 1, 0.5 + confidence / 2)
    half_width = float(quantile * present.std(ddof=1) / math.sqrt(len(present)))
    return Interval(float(present.mean()), half_width, len(present))


def proportion_interval(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the ends of the Wilson interval of a proportion, which are in [0, 1].

    Args:
      share: the observed fraction of successes.
      count: the number of independent trials.
      confidence: the confidence level.

    Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    from scipy.stats import binomtest  # here, because the import is slow

    interval = binomtest(round(share * count), count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


class Difference(NamedTuple):
    """A mean paired difference with its interval, and the p-value of no difference (nan for fewer than two pairs)."""

    interval: Interval
    p_value: float


def paired_difference(first: Mapping[Any, float], second: Mapping[Any, float], confidence: float = 0.95) -> Difference:
    """Returns the mean of first minus second over their common keys, with its Student t interval and p-value.

    The p-value is from the two-sided paired t test, t = mean / (s / sqrt(n)) with n - 1 degrees of freedom (Student
    1908). If all differences are equal, the p-value is 1 for zero and 0 otherwise.
    """
    differences = np.array([first[key] - second[key] for key in first if key in second], dtype=np.float64)
    differences = differences[~np.isnan(differences)]
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
