"""Intervals against SciPy and numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxft.analysis.statistics import bootstrap_interval, mean_interval, proportion_interval


def test_mean_interval_by_hand():
    # mean 0.8, s = 0.1, n = 4, t(0.975, 3) = 3.182446: half width 3.182446 * 0.1 / 2 (Student's table).
    values = [0.8 - 0.1 * math.sqrt(1.5), 0.8, 0.8, 0.8 + 0.1 * math.sqrt(1.5)]
    mean, half_width, count = mean_interval(values)
    assert mean == pytest.approx(0.8) and half_width == pytest.approx(0.1591223, rel=1e-6) and count == 4


def test_mean_interval_of_few_or_missing_values():
    assert mean_interval([0.5, math.nan])[0] == 0.5
    assert math.isnan(mean_interval([0.5, math.nan])[1])
    assert math.isnan(mean_interval([])[0]) and mean_interval([])[2] == 0


def test_interval_of_a_proportion_by_hand():
    # z = 1.959964, z^2 = 3.841459. 27 of 30: (0.9 + z^2/60 ± z sqrt(0.003 + z^2/3600)) / (1 + z^2/30).
    assert proportion_interval(0.9, 30) == pytest.approx((0.743790, 0.965400), abs=2e-6)
    # None or all of n: from 0 to z^2 / (n + z^2), and its mirror image.
    assert proportion_interval(0.0, 10) == pytest.approx((0, 3.841459 / 13.841459), abs=1e-6)
    assert proportion_interval(1.0, 10) == pytest.approx((10 / 13.841459, 1), abs=1e-6)


def test_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(0).lognormal(size=12)
    bounds = bootstrap_interval(values, np.random.default_rng(1), num_resamples=999)
    expected = stats.bootstrap((values,), np.mean, n_resamples=999, rng=np.random.default_rng(1)).confidence_interval
    assert (bounds.low, bounds.high) == (expected.low, expected.high)
    assert bounds.low < bounds.mean == values.mean() < bounds.high
    # Of a skewed sample, the longer tail is on the side of the larger values.
    assert bounds.high - bounds.mean > bounds.mean - bounds.low


def test_percentile_bootstrap_by_hand():
    # The mean of two draws from (0, 1) is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    bounds = bootstrap_interval([0.0, 1.0], np.random.default_rng(0), confidence=0.4, method="percentile")
    assert bounds == (0.5, 0.5, 0.5, 2)
    bounds = bootstrap_interval([0.0, 1.0], np.random.default_rng(0), confidence=0.6, method="percentile")
    assert bounds == (0.5, 0.0, 1.0, 2)


def test_equal_seeds_give_equal_bootstrap_intervals():
    values = np.random.default_rng(0).normal(size=8)
    first, second, other = (bootstrap_interval(values, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == second != other


def test_bootstrap_interval_of_few_missing_or_equal_values():
    rng = np.random.default_rng(0)
    assert bootstrap_interval([0.25, math.nan, 0.25], rng) == (0.25, 0.25, 0.25, 2)
    mean, low, high, num_values = bootstrap_interval([0.5, math.nan], rng)
    assert mean == 0.5 and math.isnan(low) and math.isnan(high) and num_values == 1
    assert math.isnan(bootstrap_interval([], rng).mean)
