"""Power of the paired t test: how many seeds show a difference, and which difference the seeds can show."""

import functools
import math

from jaxft.analysis.statistics.packages import require_statsmodels
from jaxft.core.errors import UserError

POWER = 0.8
LEVEL = 0.05
MOST_PAIRS = 100_000


@functools.cache
def detectable_effect(num_pairs: int, power: float = POWER, level: float = LEVEL) -> float:
    """Returns the smallest mean difference, in standard deviations of the differences, that is detected with `power`.

    It solves P(T > t(1 - level / 2, n - 1)) = power, where T has the noncentral t distribution with n - 1 degrees of
    freedom and noncentrality effect sqrt(n). Rejections in the wrong direction do not count.

    Args:
      num_pairs: number of pairs n, such as seeds; at least 2.
      power: probability that the two-sided paired t test rejects equality; at least 0.5.
      level: level of the test.

    Raises:
      UserError: statsmodels is not installed, or there are fewer than two pairs.

    Reference: Cohen 1988, "Statistical power analysis for the behavioral sciences", section 2;
      `statsmodels.stats.power.TTestPower`, whose `solve_power` does not converge for few pairs and some levels.
    """
    if num_pairs < 2:
        raise UserError(f"a paired t test needs at least two pairs, not {num_pairs}.")
    require_statsmodels("a power analysis")
    from scipy.optimize import brentq
    from scipy.special import ndtri

    low = 0.9 * float(ndtri(1 - level / 2) + ndtri(power)) / math.sqrt(num_pairs)  # below the value for known variance
    high = 2 * low
    while _power(high, num_pairs, level) < power:
        low, high = high, 2 * high
    return float(brentq(lambda effect: _power(effect, num_pairs, level) - power, low, high, rtol=1e-10))


def _power(effect: float, num_pairs: int, level: float) -> float:
    """Returns P(T > t(1 - level / 2, n - 1)) for the noncentral t distribution.

    The distribution is nan for some noncentralities above 36, which are so large that the variance of the mean does not
    matter: then only the standard deviation is random.
    """
    from scipy.special import chdtr, stdtrit
    from statsmodels.stats.power import TTestPower

    value = float(TTestPower().power(effect, num_pairs, level / 2, alternative="larger"))
    if not math.isnan(value):
        return value
    df = num_pairs - 1
    ratio = effect * math.sqrt(num_pairs) / stdtrit(df, 1 - level / 2)
    return float(chdtr(df, df * ratio**2))


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
