"""The tables of `jaxft results --anova` and `--power`."""

import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxft.core.csv_files import write_table
from jaxft.core.errors import UserError
from jaxft.core.printing import print_lines
from jaxft.core.tables import print_table
from jaxft.core.text import MISSING, number, number_interval, points

if TYPE_CHECKING:
    from jaxft.report.comparisons import PowerRow

DIFFERENCES = (0.5, 1.0, 2.0)  # percentage points, or units of a metric that is no share
MANY = "> 100,000"  # seeds


def print_anova(workdir: str | os.PathLike[str], metric: str, is_log_odds: bool, selected: bool, as_csv: bool) -> None:
    """Prints the analysis of variance of a metric over the factors of a study.

    Args:
      workdir: the work directory.
      metric: the analyzed column of the results.
      is_log_odds: whether an accuracy is analyzed as log-odds.
      selected: whether only the trials are analyzed that each seed selects, over the factors outside `select_over`.
      as_csv: whether the table is printed as CSV, with all digits.

    Raises:
      UserError: the study has fewer than two seeds or levels, or the metric does not vary.
    """
    from jaxft.report.effects import HEADER, analyze_effects, as_log_odds
    from jaxft.report.selection import open_arms, select_over, selected_results
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    plan, results = store.plan(), store.results()
    factors = plan["factors"]
    if selected:
        results = selected_results(open_arms(store), results)
        factors = [name for name in factors if name not in select_over(plan)]
    if is_log_odds:
        results = as_log_odds(store, results, metric)
    effects = analyze_effects(plan, results, factors, metric, is_log_odds)
    if as_csv:
        write_table(effects.table.reset_index(), sys.stdout)
        return
    print_table(HEADER, effects.rows(), range(1, len(HEADER)))
    print_lines(*effects.notes)


def print_power(
    workdir: str | os.PathLike[str], metric: str, differences: Sequence[float], selected: bool, as_csv: bool
) -> None:
    """Prints how many seeds each comparison of settings needs, and which difference the seeds of the study can show.

    Args:
      workdir: the work directory.
      metric: the compared column of the results.
      differences: in percentage points, or in units of a metric that is no share; empty for 0.5, 1 and 2.
      selected: whether the arms are compared, each at the levels selected on validation.
      as_csv: whether the table is printed as CSV, with all digits.

    Raises:
      UserError: a difference is not positive, or the study has no two settings to compare or fewer than two seeds.
    """
    from jaxft.analysis.statistics import sd_factors
    from jaxft.report.comparisons import compared_arms, compared_settings, power_rows
    from jaxft.report.effects import numeric_column
    from jaxft.report.methods import paired_test_text, streams_text
    from jaxft.report.selection import open_arms
    from jaxft.store.records import Store

    wanted = tuple(differences) or DIFFERENCES
    for difference in wanted:
        if not 0 < difference < math.inf:
            raise UserError(f"--difference must be a positive number, not {difference:g}.")
    store = Store.open(os.fspath(workdir))
    plan, results = store.plan(), store.results()
    is_share = numeric_column(results, metric).unit == "%"
    pairs = compared_arms(open_arms(store), metric) if selected else compared_settings(plan, results, metric)
    if not pairs:
        raise UserError("a power analysis compares settings that differ in one factor; this study has no such pair.")
    scale = 100 if is_share else 1
    rows = power_rows(pairs, [difference / scale for difference in wanted])
    most_pairs = max(row.interval.num_values for row in rows)
    if most_pairs < 2:
        raise UserError(
            f"a power analysis needs two seeds that finished in both settings of a pair; this study has {most_pairs}. "
            "Increase 'seeds' and run the study again: finished trials are reused."
        )
    low, high = sd_factors(most_pairs)
    if as_csv:
        write_power(rows, wanted, scale)
        return
    print_power_rows(rows, wanted, is_share)
    print_lines(
        f"difference: mean of {metric} over the seeds of both settings, with its 95 % Student t interval"
        f"{', in percentage points' if is_share else ''}. SD: standard deviation of the differences; if it is 0 or "
        "unknown, a dash marks the numbers that depend on it.",
        "detectable: smallest difference that these seeds detect with a power of 80 %. seeds for D: number of seeds "
        f"that detects a difference of D with this power. Both: {paired_test_text(1)} at level 0.05, not corrected for "
        "several comparisons.",
        f"From {most_pairs} pairs, the SD is uncertain: its 95 % chi-square interval is {low:.2g} to {high:.2g} times "
        "the value in the table.",
        f"Variation over seeds: {streams_text(plan)}.",
    )


def print_power_rows(rows: Sequence["PowerRow"], differences: Sequence[float], is_share: bool) -> None:
    """Prints one row per comparison.

    Args:
      rows: the comparisons.
      differences: the differences for which the seeds are counted, in the units that are printed.
      is_share: whether the metric is a share, which is printed in percentage points.
    """
    unit = " points" if is_share else ""

    def text(value: float | None) -> str:
        if value is None or math.isnan(value):
            return MISSING
        return f"{100 * value:.1f}" if is_share else number(value)

    cells = [
        [
            f"{row.first} − {row.second}",
            f"{row.interval.num_values}",
            (points if is_share else number_interval)(row.interval),
            text(row.sd),
            text(row.detectable),
            *(MISSING if row.detectable is None else MANY if seeds is None else f"{seeds:,}" for seeds in row.needed),
        ]
        for row in rows
    ]
    header = ["comparison", "pairs", "difference, points" if is_share else "difference"]
    header += ["SD", "detectable", *(f"seeds for {difference:g}{unit}" for difference in differences)]
    print_table(header, cells, range(1, len(header)))


def write_power(rows: Sequence["PowerRow"], differences: Sequence[float], scale: float) -> None:
    """Writes one row per comparison as CSV to stdout.

    Args:
      rows: the comparisons.
      differences: the differences for which the seeds are counted.
      scale: number by which values of the metric are multiplied: 100 for shares.
    """
    import pandas as pd

    table = pd.DataFrame(
        {
            "first": [row.first for row in rows],
            "second": [row.second for row in rows],
            "pairs": [row.interval.num_values for row in rows],
            "difference": [scale * row.interval.mean for row in rows],
            "half_width": [scale * row.interval.half_width for row in rows],
            "sd": [scale * row.sd for row in rows],
            "detectable": [None if row.detectable is None else scale * row.detectable for row in rows],
            **{
                f"seeds_for_{difference:g}": pd.array([row.needed[i] for row in rows], dtype="Int64")
                for i, difference in enumerate(differences)
            },
        }
    )
    write_table(table, sys.stdout)
