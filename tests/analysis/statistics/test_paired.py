"""Paired tests against SciPy and numbers worked out by hand."""

import math

import numpy as np
import pytest

from jaxft.analysis.statistics import holm, mean_interval, paired_difference


def test_paired_difference_by_hand():
    # Differences 1, 2, 3 (in the order of the first): mean 2, s = 1, n = 3, t(0.975, 2) = 4.302653.
    first, second = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 9.0}, {"c": 0.0, "b": 2.0, "a": 4.0, "e": 7.0}
    found = paired_difference(first, second)
    assert found.interval.mean == 2 and found.interval.num_values == 3
    assert found.interval.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    # t = 2 sqrt(3) with 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14).
    assert found.p_value == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-12)
    turned = paired_difference(second, first)
    assert turned.interval.mean == -2 and turned.p_value == found.p_value
    assert turned.interval.half_width == found.interval.half_width


def test_pairing_removes_effects_of_the_seed_on_both():
    # Seeds differ by 0.3, the two within a seed by 0.01 to 0.03: apart they could not be told from each other.
    first, second = {0: 0.31, 1: 0.62, 2: 0.93}, {0: 0.30, 1: 0.60, 2: 0.90}
    found = paired_difference(first, second)
    assert found.interval.mean - found.interval.half_width < 0 < found.interval.mean
    assert found.interval.half_width == pytest.approx(0.01 * 4.302653 / math.sqrt(3), rel=1e-6)
    assert mean_interval(list(first.values())).half_width > 0.7


def test_paired_difference_agrees_with_scipy():
    from scipy import stats

    one, other = np.random.default_rng(0).normal(size=(2, 7))
    found = paired_difference(dict(enumerate(one)), dict(enumerate(other)))
    expected = stats.ttest_rel(one, other)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-10)
    low, high = expected.confidence_interval(0.95)
    mean, half_width, _ = found.interval
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high), rel=1e-10)


def test_paired_difference_of_few_missing_or_equal_values():
    alone = paired_difference({0: 0.5, 1: math.nan}, {0: 0.25, 1: 0.5})
    assert alone.interval.mean == 0.25 and alone.interval.num_values == 1 and math.isnan(alone.p_value)
    assert paired_difference({0: 1.0}, {1: 1.0}).interval.num_values == 0
    same = paired_difference({0: 0.5, 1: 0.75}, {0: 0.5, 1: 0.75})
    assert same.interval == (0, 0, 2) and same.p_value == 1
    assert paired_difference({0: 1.5, 1: 1.75}, {0: 0.5, 1: 0.75}).p_value == 0


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last is raised to the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]  # no more than 1
    assert holm([]) == [] and holm([0.2]) == [0.2]
    assert holm([math.nan, 0.01, 0.02])[1:] == pytest.approx([0.02, 0.02])  # a family of two
    assert math.isnan(holm([math.nan, 0.01])[0])
