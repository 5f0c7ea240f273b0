"""Power against an integral, published tables and the simulation-free limits."""

import math

import pytest
from scipy import integrate, stats

from jaxft.analysis.statistics import detectable_effect, pairs_needed, sd_factors
from jaxft.core.errors import UserError


def power_by_integration(effect, num_pairs, level):
    """Returns P(T > t(1 - level / 2, df)): the normal probability, averaged over the chi distribution of the SD."""
    df = num_pairs - 1
    quantile = stats.t.ppf(1 - level / 2, df)

    def density(chi):
        return stats.norm.sf(quantile * chi / math.sqrt(df) - effect * math.sqrt(num_pairs)) * stats.chi.pdf(chi, df)

    upper = math.sqrt(df) + 12
    return integrate.quad(density, 0, upper, points=[math.sqrt(df)], limit=200, epsabs=1e-12)[0]


@pytest.mark.parametrize("num_pairs", [2, 3, 5, 10, 40])
@pytest.mark.parametrize(("power", "level"), [(0.8, 0.05), (0.95, 0.01)])
def test_the_detectable_effect_has_the_power(num_pairs, power, level):
    effect = detectable_effect(num_pairs, power, level)
    # Noncentralities above 36 (two pairs at level 0.01) leave out the variance of the mean.
    precision = 3e-4 if effect * math.sqrt(num_pairs) > 36 else 1e-7
    assert power_by_integration(effect, num_pairs, level) == pytest.approx(power, abs=precision)


def test_pairs_needed_for_the_effects_of_cohen():
    # G*Power 3.1, t tests, difference between two dependent means, two-tailed, 0.05, 0.8.
    assert [pairs_needed(effect) for effect in (0.2, 0.5, 0.8)] == [199, 34, 15]


def test_pairs_needed_is_the_smallest_number():
    for effect in (4.0, 1.3, 0.31):
        needed = pairs_needed(effect)
        assert detectable_effect(needed) <= effect < detectable_effect(needed - 1)
    assert pairs_needed(detectable_effect(7)) == 7
    assert pairs_needed(1e9) == 2
    assert pairs_needed(1e-4) is None


def test_many_pairs_have_the_power_of_the_normal_distribution():
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / math.sqrt(100_000)
    assert detectable_effect(100_000) == pytest.approx(expected, rel=1e-4)


def test_bad_requests_are_one_sentence():
    with pytest.raises(UserError, match="at least two pairs, not 1"):
        detectable_effect(1)
    for effect in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="must be positive"):
            pairs_needed(effect)


def test_the_interval_of_a_standard_deviation_by_hand():
    # chi2(0.975, 4) = 11.143287 and chi2(0.025, 4) = 0.484419 (tables).
    assert sd_factors(5) == pytest.approx((math.sqrt(4 / 11.143287), math.sqrt(4 / 0.484419)), rel=1e-6)
    assert all(map(math.isnan, sd_factors(1)))
