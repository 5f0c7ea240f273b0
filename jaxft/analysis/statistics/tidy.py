"""Tables of one value per row, prepared for the formulas of statsmodels."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.text import some_of

if TYPE_CHECKING:
    import pandas as pd


class TidyValues(NamedTuple):
    """The values of a response, and the names that formulas use for the columns of the table.

    Attributes:
      data: a row per value, with the column `response` and a column of level numbers per name in `symbols`.
      symbols: name in formulas of each factor or block, such as 'C(x0)', by its name in the table.
    """

    data: "pd.DataFrame"
    symbols: dict[str, str]


def tidy_values(table: "pd.DataFrame", response: str, columns: Sequence[str]) -> TidyValues:
    """Returns the rows of `table` with a finite `response`, with each of `columns` as a categorical variable.

    Levels may be of any type; they are equal if their `repr` is equal.

    Raises:
      UserError: a column is missing or has fewer than two levels, or the response does not vary.
    """
    import pandas as pd

    for name in (response, *columns):
        if name not in table.columns:
            raise UserError(f"the table has no column {name!r}{did_you_mean(name, map(str, table.columns))}.")
    values = table[response].to_numpy(dtype=np.float64)
    rows = table[np.isfinite(values)]
    symbols = {name: f"C(x{i})" for i, name in enumerate(columns)}
    codes = {f"x{i}": pd.factorize(rows[name].map(repr))[0] for i, name in enumerate(columns)}
    single = [name for name, code in zip(columns, codes.values()) if len(np.unique(code)) < 2]
    if single:
        raise UserError(
            f"{some_of(single)} must have at least two levels among the {len(rows)} values of {response!r} that are "
            "finite."
        )
    finite = values[np.isfinite(values)]
    if np.ptp(finite) == 0:
        raise UserError(f"{response!r} is {finite[0]:g} in all {len(rows)} rows, so it has no variance to analyze.")
    return TidyValues(pd.DataFrame({"response": finite, **codes}), symbols)


def least_squares(formula: str, data: "pd.DataFrame") -> Any:
    """Returns the fit of statsmodels; if the design matrix has no full rank, that with the smallest coefficients."""
    from statsmodels.formula.api import ols

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the rank: residuals and degrees of freedom are still unique
        return ols(formula, data).fit()
