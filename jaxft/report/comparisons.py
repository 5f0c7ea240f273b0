"""Which settings of a study are compared, and how many seeds their differences need."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxft.analysis.statistics import (
    Interval,
    detectable_effect,
    mean_interval,
    paired_differences,
    pairs_needed,
)
from jaxft.report.labels import setting_labels
from jaxft.report.levels import axis_positions, distinct, is_number, level_key, other_levels
from jaxft.report.selection import Arm, arm_pairs

if TYPE_CHECKING:
    import pandas as pd

Pair = tuple[int, int]


class Compared(NamedTuple):
    """A setting or an arm: its label, and its value of a metric by seed."""

    label: str
    by_seed: Mapping[int, float]


class PowerRow(NamedTuple):
    """The power of the paired comparison of two settings or arms.

    Attributes:
      first: label of the first one.
      second: label of the second one.
      interval: mean of first minus second over the seeds, with its interval.
      sd: standard deviation of the differences; nan for fewer than two pairs.
      detectable: smallest mean difference that these pairs detect; None if `sd` is 0 or nan.
      needed: number of seeds that detect each requested difference; None if `sd` is 0 or nan, or if more than 100,000.
    """

    first: str
    second: str
    interval: Interval
    sd: float
    detectable: float | None
    needed: tuple[int | None, ...]


def neighboring_settings(plan: Mapping[str, Any]) -> list[Pair]:
    """Returns the numbers (later, earlier) of each pair of settings that differ in one factor, at neighboring levels.

    Levels are ordered as on the axes of the report: words, then numbers. If no level of a factor is a number, each
    level is compared with the first one.
    """
    factors, settings = plan["factors"], plan["settings"]
    pairs = []
    for factor in factors:
        groups: dict[str, list[int]] = {}
        for i, setting in enumerate(settings):
            groups.setdefault(level_key(other_levels(setting, factor, factors)), []).append(i)
        levels = distinct([setting.get(factor) for setting in settings])
        position = axis_positions(levels).position
        for numbers in groups.values():
            if any(map(is_number, levels)):
                ordered = sorted(numbers, key=lambda i: position[level_key(settings[i].get(factor))])
                pairs += [(later, earlier) for earlier, later in itertools.pairwise(ordered)]
            else:
                pairs += [(other, numbers[0]) for other in numbers[1:]]
    return pairs


def compared_settings(plan: Mapping[str, Any], results: "pd.DataFrame", metric: str) -> list[tuple[Compared, Compared]]:
    """Returns the pairs of `neighboring_settings`, with the metric of the trials that are done."""
    labels = setting_labels(plan["factors"], plan["settings"])
    done = results[results["status"] == "done"]
    compared = []
    for i, label in enumerate(labels):
        rows = done[done["setting"] == i]
        compared.append(Compared(label, dict(zip(rows["seed"], rows[metric]))))
    return [(compared[first], compared[second]) for first, second in neighboring_settings(plan)]


def compared_arms(arms: Sequence[Arm], metric: str) -> list[tuple[Compared, Compared]]:
    """Returns the pairs of `arm_pairs`, with the metric of the selected trials."""

    def of(arm: Arm) -> Compared:
        return Compared(arm.label, {seed: row[metric] for seed, row in arm.selected.items()})

    return [(of(first), of(second)) for first, second in arm_pairs(arms)]


def power_rows(pairs: Sequence[tuple[Compared, Compared]], differences: Sequence[float]) -> list[PowerRow]:
    """Returns the power of each comparison by the two-sided paired t test at level 0.05, with a power of 80 %.

    Args:
      pairs: the settings or arms to compare.
      differences: differences, in units of the metric, for which the number of seeds is computed.

    Raises:
      UserError: statsmodels is not installed.
    """
    rows = []
    for first, second in pairs:
        values = paired_differences(first.by_seed, second.by_seed)
        sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        varies = sd > 0
        needed = tuple(pairs_needed(difference / sd) if varies else None for difference in differences)
        detectable = sd * detectable_effect(len(values)) if varies else None
        rows.append(PowerRow(first.label, second.label, mean_interval(values), sd, detectable, needed))
    return rows
