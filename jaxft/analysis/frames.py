"""Results of analyses as tidy DataFrames, with one value in a row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = ("run", "level", "name", "measure", "value")


def change_frame(by_level: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """Returns the columns run, level, name, measure and value, from {level: {name: {measure: value}}}.

    Values have the shape [], or [R] for R runs. Runs are numbered from 0. If a value has one more axis, such as the
    filters [R, filters] of `parameters.changes`, the table has the column 'index' too, with its position on this axis.

    Example:
      >>> change_frame(parameters.changes(before, after)).query("level == 'layer' and measure == 'relative_l2'")
    """
    tables = [
        _table(level, name, measure, np.asarray(value))
        for level, by_name in by_level.items()
        for name, measures in by_name.items()
        for measure, value in measures.items()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))


def _table(level: str, name: str, measure: str, value: np.ndarray) -> pd.DataFrame:
    by_index = level == "filter"
    values = value if value.ndim == 1 + by_index else value[None]
    runs, *indices = np.indices(values.shape).reshape(values.ndim, -1)
    columns: dict[str, Any] = {"run": runs, "level": level, "name": name, "measure": measure, "value": values.ravel()}
    return pd.DataFrame(columns | ({"index": indices[0]} if by_index else {}))


def pair_frame(matrices: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Returns the columns first, second, level, name, measure and value, from {name: {measure: [R, R]}}.

    It has one row for each pair of runs with first < second.
    """
    tables = []
    for name, measures in matrices.items():
        for measure, matrix in measures.items():
            first, second = np.triu_indices(len(matrix), 1)
            values = {"measure": measure, "value": np.asarray(matrix)[first, second]}
            tables.append(pd.DataFrame({"first": first, "second": second, "level": "layer", "name": name} | values))
    columns = ["first", "second", "level", "name", "measure", "value"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
