"""Means and intervals over seeds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

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
    from scipy import stats

    quantile = stats.t.ppf(0.5 + confidence / 2, len(kept) - 1)
    return Interval(float(kept.mean()), float(quantile * kept.std(ddof=1) / math.sqrt(len(kept))), len(kept))
