"""Analysis of variance: which factors explain the variance of a result."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxft.analysis.statistics.packages import require_statsmodels
from jaxft.analysis.statistics.tidy import TidyValues, least_squares, tidy_values
from jaxft.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

RESIDUAL = "residual"
INTERACTION = " × "  # joins the factors of an interaction
ROUNDING = 1e-12  # a sum of squares below this share of the total is rounding
Term = tuple[str, ...]  # the factors of an effect; two of them are an interaction


def anova(
    table: "pd.DataFrame",
    response: str,
    factors: Sequence[str],
    block: str | None = None,
    interactions: bool = True,
) -> "pd.DataFrame":
    """Returns the analysis of variance of `response` as a DataFrame, with one row per effect and a last row 'residual'.

    The linear model has an effect for each level of each factor and block, and for each combination of levels of two
    factors. The sum of squares of an effect is of type II: SS = RSS(model without the effect) - RSS(model with it),
    where both models omit the interactions that contain the effect. With MS = SS / df:

      F = MS / MS_residual
      eta_sq = SS / SS_total
      partial_eta_sq = SS / (SS + SS_residual)
      omega_sq = (SS - df MS_residual) / (SS_total + MS_residual), at least 0

    In a balanced design, eta_sq of all effects and the residual sum to 1; in other designs, effects overlap, and the
    sum can differ from 1. omega_sq corrects the upward bias of eta_sq. Interactions of three or more factors are
    part of the residual.

    The design may be unbalanced and lack combinations of levels. Degrees of freedom are differences of the ranks of the
    design matrices. Interactions with zero degrees of freedom are left out; a factor that cannot be separated from the
    others has df 0 and F nan.

    Args:
      table: one row per observation, such as `jaxft.load_results`. Rows without a finite response are ignored.
      response: name of the column that is explained.
      factors: names of columns of levels; every value is a category, numbers too.
      block: name of a column, such as the seed, with levels that all combinations of factor levels share. Its variance
        is not part of the residual. If None, there is no block.
      interactions: whether the model contains the interactions of pairs of factors.

    Returns:
      Columns `df`, `sum_sq`, `F`, `p` (of the F test), `eta_sq`, `partial_eta_sq` and `omega_sq`; the index is the
      effect, such as 'a', 'a × b' or the name of the block.

    Raises:
      UserError: statsmodels is not installed, a column is missing or has one level, the response does not vary, or no
        degree of freedom is left for the residual.

    Reference: Fox 2016, "Applied regression analysis and generalized linear models", section 8.2 (type II); Olejnik &
      Algina 2003, "Generalized eta and omega squared statistics". `statsmodels.stats.anova.anova_lm(typ=2)` agrees if
      the design matrix has full rank; otherwise it counts columns instead of ranks.
    """
    import pandas as pd
    from scipy.stats import f as f_distribution

    require_statsmodels("an analysis of variance")
    values = tidy_values(table, response, [*([block] if block else []), *factors])
    residual = functools.cache(functools.partial(_residual, values))
    effects: list[Term] = [(name,) for name in values.symbols]
    if interactions:
        pairs = list(itertools.combinations(factors, 2))
        effects += [pair for pair in pairs if _increment(residual, [*effects, *pairs], pair)[1]]
    residual_sum_sq, residual_df = residual(tuple(effects))
    if residual_df < 1:
        raise UserError(
            f"the design leaves no residual variance: {len(values.data)} values for {len(effects)} effects; run more "
            "seeds, or leave out the interactions."
        )
    total = float(np.square(values.data["response"] - values.data["response"].mean()).sum())
    residual_sum_sq = 0.0 if residual_sum_sq < ROUNDING * total else residual_sum_sq
    rows = pd.DataFrame([_increment(residual, effects, effect) for effect in effects], columns=["sum_sq", "df"])
    rows["sum_sq"] = rows["sum_sq"].where(rows["sum_sq"] > ROUNDING * total, 0.0)
    residual_mean_sq = residual_sum_sq / residual_df
    with np.errstate(divide="ignore", invalid="ignore"):
        rows["F"] = rows["sum_sq"].to_numpy() / rows["df"].to_numpy() / residual_mean_sq
    rows["p"] = f_distribution.sf(rows["F"], rows["df"], residual_df)
    rows["eta_sq"] = rows["sum_sq"] / total
    rows["partial_eta_sq"] = rows["sum_sq"] / (rows["sum_sq"] + residual_sum_sq)
    unbiased = (rows["sum_sq"] - rows["df"] * residual_mean_sq) / (total + residual_mean_sq)
    rows["omega_sq"] = unbiased.clip(lower=0)
    last = {"df": residual_df, "sum_sq": residual_sum_sq, "eta_sq": residual_sum_sq / total}
    rows = pd.concat([rows, pd.DataFrame([last])], ignore_index=True)
    rows.index = pd.Index([*map(INTERACTION.join, effects), RESIDUAL], name="effect")
    return rows[["df", "sum_sq", "F", "p", "eta_sq", "partial_eta_sq", "omega_sq"]]


def _increment(residual: Callable[..., tuple[float, int]], effects: Sequence[Term], effect: Term) -> tuple[float, int]:
    """Returns the type II sum of squares of an effect and its degrees of freedom."""
    others = [other for other in effects if not set(effect) <= set(other)]
    without, with_effect = residual(tuple(others)), residual((*others, effect))
    return without[0] - with_effect[0], without[1] - with_effect[1]


def _residual(values: TidyValues, effects: Sequence[Term]) -> tuple[float, int]:
    """Returns the residual sum of squares of the least-squares fit with `effects`, and its degrees of freedom."""
    terms = [":".join(values.symbols[name] for name in effect) for effect in effects]
    fit = least_squares(" + ".join(["response ~ 1", *terms]), values.data)
    return float(fit.ssr), int(fit.df_resid)
