"""The effects of the factors of a study on a metric: an analysis of variance, and a description of it."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxft.analysis.statistics import INTERACTION, RESIDUAL, anova, log_odds, mixed_model
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.labels import label
from jaxft.core.text import MISSING, number, p_value, plural
from jaxft.report.levels import distinct, level_key
from jaxft.report.methods import streams_text
from jaxft.store.columns import Column, columns_of, metric_of

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.store.records import Store

HEADER = ("effect", "df", "F", "p", "η²", "partial η²", "ω²")
SEED = "seed"


@dataclass(frozen=True)
class Effects:
    """An analysis of variance of a study.

    Attributes:
      table: the table of `jaxft.analysis.statistics.anova`.
      notes: sentences on the method, the trials and the assumptions.
    """

    table: "pd.DataFrame"
    notes: tuple[str, ...]

    def rows(self) -> list[list[str]]:
        """Returns the cells of `HEADER` for each effect and the residual, with short names of the factors."""
        names = [name for name in self.table.index if INTERACTION not in name and name not in (SEED, RESIDUAL)]
        short = {name: label(name) for name in names}
        if len(set(short.values())) < len(names):
            short = {name: name for name in names}
        short[SEED] = f"{SEED} (block)"
        return [
            [
                INTERACTION.join(short.get(name, name) for name in effect.split(INTERACTION)),
                f"{row['df']:.0f}",
                number(row["F"]),
                p_value(row["p"]),
                *(share_text(row[name]) for name in ("eta_sq", "partial_eta_sq", "omega_sq")),
            ]
            for effect, row in zip(self.table.index, self.table.to_dict("records"))
        ]


def share_text(value: float) -> str:
    """Returns an effect size with three decimals; a dash if it is nan."""
    return MISSING if np.isnan(value) else f"{value:.3f}"


def numeric_column(results: "pd.DataFrame", metric: str) -> Column:
    """Returns the column `metric` of the results.

    Raises:
      UserError: the results have no such column of numbers, or no trial that is done has a value.
    """
    columns = {name: column for name, column in columns_of(results.columns).items() if column.is_number}
    if metric not in columns:
        raise UserError(f"the results have no column of numbers {metric!r}{did_you_mean(metric, columns)}.")
    if not results.loc[results["status"] == "done", metric].notna().any():
        raise UserError(f"no finished trial of this study has a value of {metric!r}.")
    return columns[metric]


def as_log_odds(store: "Store", results: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    """Returns the results with the accuracy `metric` as log-odds, corrected by the number of images of each trial.

    Raises:
      UserError: `metric` is not 'val_accuracy' or 'test_accuracy', or a record lacks the number of images.
    """
    subset, name = metric_of(metric) or ("", "")
    if name != "accuracy":
        raise UserError(f"log-odds need 'test_accuracy' or 'val_accuracy', not {metric!r}.")
    num_images = [(store.read("trials", trial) or {}).get("images", {}).get(subset) for trial in results["trial"]]
    counts = np.array([np.nan if n is None else n for n in num_images], dtype=np.float64)
    accuracy = results[metric].to_numpy(dtype=np.float64)
    if np.isnan(counts[np.isfinite(accuracy)]).any():
        raise UserError("log-odds need the number of images of each trial, which the records of this study lack.")
    return results.assign(**{metric: log_odds(accuracy, np.where(np.isnan(counts), 1, counts))})


def analyze_effects(
    plan: Mapping[str, Any],
    results: "pd.DataFrame",
    factors: Sequence[str],
    metric: str = "test_accuracy",
    is_log_odds: bool = False,
) -> Effects:
    """Returns the analysis of variance of `metric` over the trials that are done.

    Args:
      plan: the plan of the study.
      results: one row per trial (`Store.results`, or `selected_results` for one row per arm and seed).
      factors: the factors to analyze; those with a single level in the plan are ignored.
      metric: a column of numbers of the results.
      is_log_odds: whether the column contains log-odds (`as_log_odds`).

    Raises:
      UserError: the study has no factor with two levels, fewer than two seeds are done, or `anova` cannot analyze the
        values.
    """
    column = numeric_column(results, metric)
    levels = {name: [level_key(setting.get(name)) for setting in plan["settings"]] for name in factors}
    varying = [name for name in factors if len(distinct(levels[name])) > 1]
    if not varying:
        raise UserError("an analysis of variance needs a factor with at least two levels; this study has none.")
    done = results[(results["status"] == "done") & results[metric].notna()]
    if done[SEED].nunique() < 2:
        raise UserError(
            f"an analysis of variance needs at least two seeds; the finished trials have {done[SEED].nunique()}. "
            "Increase 'seeds' and run the study again: finished trials are reused."
        )
    cells = done.assign(**{name: [levels[name][setting] for setting in done["setting"]] for name in varying})
    cells["cell"] = [level_key(list(combination)) for combination in zip(*(cells[name] for name in varying))]
    table = anova(cells, metric, varying, block=SEED)
    unit = "%" if column.unit == "%" and not is_log_odds else ""
    response = f"log-odds of {metric}" if is_log_odds else metric
    notes = (
        f"Analysis of variance (type II) of {response} over {plural(len(done), 'trial')}: "
        f"{plural(cells['cell'].nunique(), 'combination')} of levels, {plural(done[SEED].nunique(), 'seed')}, with the "
        f"seed as a block ({streams_text(plan)}).",
        *missing_notes(plan, results, cells, table, varying),
        "η²: share of the total variance. ω²: this share without its upward bias. Partial η²: share of the variance "
        "that no other effect explains.",
        *spread_notes(cells, metric, unit),
    )
    return Effects(table, notes)


def missing_notes(
    plan: Mapping[str, Any],
    results: "pd.DataFrame",
    cells: "pd.DataFrame",
    table: "pd.DataFrame",
    varying: Sequence[str],
) -> list[str]:
    """Returns sentences on trials and interactions that the analysis lacks.

    Args:
      plan: the plan of the study.
      results: one row per trial.
      cells: one row per analyzed trial, with the level keys of the factors.
      table: the analysis of variance.
      varying: the analyzed factors.
    """
    notes = []
    if left_out := len(results) - len(cells):
        notes.append(f"{plural(left_out, 'trial')} that failed, diverged or lack the metric: left out.")
    num_possible = int(np.prod([cells[name].nunique() for name in (*varying, SEED)]))
    if num_missing := num_possible - len(cells):
        notes.append(
            f"{num_missing} of {num_possible} combinations of levels and seeds have no result, so effects overlap, and "
            "the shares need not sum to 1."
        )
    num_pairs = len(varying) * (len(varying) - 1) // 2
    if num_left_out := num_pairs - sum(INTERACTION in effect for effect in table.index):
        notes.append(f"{plural(num_left_out, 'interaction')} that the design cannot estimate: left out.")
    if (table["df"] == 0).any():
        notes.append("An effect with 0 degrees of freedom cannot be separated from the other factors.")
    if len(varying) > 2:
        notes.append("Interactions of three or more factors are part of the residual.")
    return notes


def spread_notes(cells: "pd.DataFrame", metric: str, unit: str) -> list[str]:
    """Returns sentences on the standard deviations: over the seeds, of the residual, and in each combination of levels.

    Args:
      cells: one row per analyzed trial, with a column 'cell' for the combination of levels.
      metric: the analyzed column.
      unit: '%' if the column contains shares, otherwise ''.
    """

    def text(value: float) -> str:
        return f"{100 * value:.1f} percentage points" if unit == "%" else number(value)

    notes = []
    with contextlib.suppress(UserError):  # without residual variance
        model = mixed_model(cells, metric, ["cell"], group=SEED)
        if model.converged:
            notes.append(
                "Mixed model (REML) with the combination of levels as fixed and the seed as random effect: standard "
                f"deviation between seeds {text(model.group_sd)}, residual {text(model.residual_sd)}."
            )
    deviations = cells.groupby("cell")[metric].std().dropna()
    if len(deviations) > 1:
        notes.append(
            "The F tests assume equal standard deviations over seeds; the combinations of levels have "
            f"standard deviations from {text(deviations.min())} to {text(deviations.max())}."
        )
    return notes
