"""Statistics over seeds: intervals, paired tests, power, analysis of variance, mixed models and log-odds.

SciPy and statsmodels compute the distributions and the fits. `anova`, `mixed_model` and the functions of power need the
extra `statistics`. docs/statistics.md describes which function is used where.
"""

from jaxft.analysis.statistics.anova import INTERACTION, RESIDUAL, anova
from jaxft.analysis.statistics.intervals import (
    Bounds,
    Interval,
    bootstrap_interval,
    mean_interval,
    proportion_interval,
)
from jaxft.analysis.statistics.log_odds import log_odds
from jaxft.analysis.statistics.mixed import MixedModel, mixed_model
from jaxft.analysis.statistics.packages import has_statsmodels
from jaxft.analysis.statistics.paired import Difference, holm, paired_difference, paired_differences
from jaxft.analysis.statistics.power import detectable_effect, pairs_needed, sd_factors

__all__ = [
    "INTERACTION",
    "RESIDUAL",
    "Bounds",
    "Difference",
    "Interval",
    "MixedModel",
    "anova",
    "bootstrap_interval",
    "detectable_effect",
    "has_statsmodels",
    "holm",
    "log_odds",
    "mean_interval",
    "mixed_model",
    "paired_difference",
    "paired_differences",
    "pairs_needed",
    "proportion_interval",
    "sd_factors",
]
