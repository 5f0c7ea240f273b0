"""Power of the paired t test: how many seeds show a difference, and which difference the seeds can show."""

import functools
import math
import warnings

from jaxft.analysis.statistics.packages import require_statsmodels
from jaxft.core.errors import UserError

POWER = 0.8
LEVEL = 0.05
MOST_PAIRS = 100_000


@functools.cache
def detectable_effect(num_pairs: int, power: float = POWER, level: float = LEVEL) -> float:
    """Returns the smallest mean difference, in standard deviations of the differences, that is detected with `power`.

    It solves P(|T| > t(1 - level / 2, n - 1)) = power, where T has the noncentral t distribution with n - 1 degrees of
    freedom and noncentrality effect sqrt(n).

    Args:
      num_pairs: number of pairs n, such as seeds; at least 2.
      power: probability that the two-sided paired t test rejects equality.
      level: level of the test.

    Raises:
      UserError: statsmodels is not installed, or there are fewer than two pairs.

    Reference: Cohen 1988, "Statistical power analysis for the behavioral sciences", section 2;
      `statsmodels.stats.power.TTestPower`.
    """
    if num_pairs < 2:
        raise UserError(f"a paired t test needs at least two pairs, not {num_pairs}.")
    require_statsmodels("a power analysis")
    from statsmodels.stats.power import TTestPower

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of intermediate values of the solver
        effect = float(TTestPower().solve_power(nobs=num_pairs, alpha=level, power=power))
    return effect


def pairs_needed(effect: float, power: float = POWER, level: float = LEVEL) -> int | None:
    """Returns the smallest number of pairs with which a paired t test detects a mean difference with `power`.

    It is the smallest n with `detectable_effect(n) <= effect`, found by bisection; None if it is more than 100,000.

    Args:
      effect: the mean difference in standard deviations of the differences (Cohen's d_z); positive.
      power: probability that the two-sided paired t test rejects equality.
      level: level of the test.

    Raises:
      UserError: the effect is not positive, or statsmodels is not installed.
    """
    if not effect > 0:
        raise UserError(f"the effect of a power analysis must be positive, not {effect:g}.")
    low, high = 1, 2  # the answer is above low, and at most high
    while detectable_effect(high, power, level) > effect:
        if high >= MOST_PAIRS:
            return None
        low, high = high, min(2 * high, MOST_PAIRS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable_effect(middle, power, level) <= effect else (middle, high)
    return high


def sd_factors(num_values: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the ends of the interval of a standard deviation, as multiples of the observed one.

    sqrt((n - 1) / chi2(1 - a, n - 1)) and sqrt((n - 1) / chi2(a, n - 1)) with a = (1 - confidence) / 2, for n normal
    values; (nan, nan) for fewer than two values.
    """
    if num_values < 2:
        return math.nan, math.nan
    from scipy.special import chdtri

    df, tail = num_values - 1, (1 - confidence) / 2
    return math.sqrt(df / chdtri(df, tail)), math.sqrt(df / chdtri(df, 1 - tail))
