"""Writing of CSV files that spreadsheets open as text and numbers, never as formulas."""

import csv
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any

from jaxft.core.text import escaped

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@")  # a spreadsheet computes a cell that begins with one of these characters


def csv_cell(value: Any) -> Any:
    """Returns a value of a CSV cell. Text is escaped (`escaped`), and begins with `'` if it could be a formula.

    Numbers and missing values do not change.
    """
    if not isinstance(value, str):
        return value
    text = escaped(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def row_writer(file: IO[str]) -> Callable[[Iterable[Any]], object]:
    """Returns a function that writes a row of values to `file`, which must be open with `newline=""`."""
    writer = csv.writer(file)
    return lambda row: writer.writerow(map(csv_cell, row))


def write_table(table: "pd.DataFrame", file: Any) -> None:
    """Writes a DataFrame as CSV to `file`, a path or an open file."""
    safe = table.copy()
    for name in safe.select_dtypes(exclude="number"):
        safe[name] = safe[name].map(csv_cell)
    safe.rename(columns=csv_cell).to_csv(file, index=False)
