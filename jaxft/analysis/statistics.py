"""Means, intervals and paired differences over seeds."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean, half the width of its confidence interval (nan for fewer than two values), and their number."""

    mean: float
    half_width: float
    num_values: int


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Returns the mean of `values` and its Student t interval; missing values (nan) are left out.

    half_width = t(1 - (1 - confidence) / 2, n - 1) s / sqrt(n), with s the sample standard deviation
    (n - 1 in the denominator); Student 1908.
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    if len(kept) == 0:
        return Interval(math.nan, math.nan, 0)
    if len(kept) == 1:
        return Interval(float(kept[0]), math.nan, 1)
    from scipy.special import stdtrit  # scipy.stats takes three times as long to import

    quantile = stdtrit(len(kept) - 1, 0.5 + confidence / 2)
    return Interval(float(kept.mean()), float(quantile * kept.std(ddof=1) / math.sqrt(len(kept))), len(kept))


def proportion_interval(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the ends of the interval of a probability, after `share` of `count` independent tries came true.

    Wilson's interval, which stays within [0, 1] (Wilson 1927, "Probable inference").
    """
    from scipy.stats import binomtest  # late: it takes long to import

    interval = binomtest(round(share * count), count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


class Difference(NamedTuple):
    """A mean paired difference with its interval, and the p-value of its being zero (nan for fewer than two pairs)."""

    interval: Interval
    p_value: float


def paired_difference(first: Mapping[Any, float], second: Mapping[Any, float], confidence: float = 0.95) -> Difference:
    """Returns the mean of first minus second over what both have, with its Student t interval and p-value.

    The p-value is that of the two-sided paired t test, t = mean / (s / sqrt(n)) with n - 1 degrees of freedom
    (Student 1908). Differences that are all the same and not zero have the p-value 0; if they are all zero it is 1.
    """
    differences = np.array([first[key] - second[key] for key in first if key in second], dtype=np.float64)
    differences = differences[~np.isnan(differences)]
    interval = mean_interval(differences, confidence)
    if interval.num_values < 2:
        return Difference(interval, math.nan)
    from scipy.stats import ttest_1samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of differences that are all the same
        p_value = float(ttest_1samp(differences, 0).pvalue)
    return Difference(interval, 1.0 if math.isnan(p_value) else p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for being a family: of m, the i-th smallest times m - i + 1, none below a smaller one.

    Rejecting what is below a level then errs anywhere in the family with that probability at most (Holm 1979,
    "A simple sequentially rejective multiple test procedure"). Missing values (nan) stay so and are not counted.
    """
    adjusted = list(p_values)
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
