"""Mixed linear models: factors are fixed effects, and the seed is a random effect."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxft.analysis.statistics.packages import require_statsmodels
from jaxft.analysis.statistics.tidy import least_squares, tidy_values
from jaxft.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class MixedModel:
    """A fitted mixed model.

    Attributes:
      tests: Wald test of each factor, with the columns `chi_sq`, `df` and `p`; the index is the factor.
      group_sd: standard deviation of the random effect, in units of the response.
      residual_sd: standard deviation of the residual, in units of the response.
      converged: whether the optimizer of the likelihood converged.
    """

    tests: "pd.DataFrame"
    group_sd: float
    residual_sd: float
    converged: bool


def mixed_model(table: "pd.DataFrame", response: str, factors: Sequence[str], group: str = "seed") -> MixedModel:
    """Returns the mixed model `response = factors + random effect of the group + residual`, fitted by REML.

    It uses all rows if some groups lack some levels, and estimates how much the response varies between groups. In a
    balanced design, residual_sd^2 = MS_residual and group_sd^2 = (MS_group - MS_residual) / (rows per group) of `anova`
    with the group as a block and without interactions, unless this difference is negative: then group_sd is 0.

    The Wald tests use the chi-square distribution, so for few groups their p-values are too small; `anova` is exact
    under normality. To fit interactions, pass one factor that numbers the combinations of levels, such as `setting`.

    Args:
      table: one row per observation, such as `jaxft.load_results`. Rows without a finite response are ignored.
      response: name of the column that is explained.
      factors: names of columns of levels; every value is a category.
      group: name of the column whose effect is random.

    Raises:
      UserError: statsmodels is not installed, a column is missing or has one level, the response does not vary, or the
        levels of the factors cannot be separated.

    Reference: Laird & Ware 1982, "Random-effects models for longitudinal data"; statsmodels `MixedLM`.
    """
    require_statsmodels("a mixed model")
    import pandas as pd
    from statsmodels.formula.api import mixedlm

    values = tidy_values(table, response, [group, *factors])
    group_symbol, *symbols = values.symbols.values()
    scale = float(values.data["response"].std())  # the optimizer expects values near 1
    data = values.data.assign(response=values.data["response"] / scale)
    formula = " + ".join(["response ~ 1", *symbols])
    fixed = least_squares(formula, data)
    if fixed.df_model + 1 < fixed.model.exog.shape[1]:
        raise UserError(f"the levels of {', '.join(factors)} cannot be separated: some of them only occur together.")
    if fixed.df_resid < 1 or fixed.ssr < 1e-12:
        raise UserError(f"the factors explain all variance of {response!r}, so a mixed model has no residual.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a random effect with variance 0, which is a valid result
        # Gradient methods often miss the optimum if this variance is almost 0; Powell does not use gradients.
        fit = mixedlm(formula, data, groups=data[group_symbol.strip("C()")]).fit(reml=True, method="powell")
        wald = fit.wald_test_terms(scalar=True)
    chi_sq = np.array([float(wald.table.loc[symbol, "statistic"]) for symbol in symbols])
    tests = pd.DataFrame(
        {
            "chi_sq": chi_sq,
            "df": [int(wald.table.loc[symbol, "df_constraint"]) for symbol in symbols],
            "p": [float(wald.table.loc[symbol, "pvalue"]) for symbol in symbols],
        },
        index=pd.Index(factors, name="factor"),
    )
    group_sd = scale * math.sqrt(max(float(fit.cov_re.iloc[0, 0]), 0.0))
    return MixedModel(tests, group_sd, scale * math.sqrt(float(fit.scale)), bool(fit.converged))
