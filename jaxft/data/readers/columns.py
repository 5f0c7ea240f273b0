"""Columns of a table in CSV, TSV, JSON Lines or Parquet format."""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxft.core.errors import UserError
from jaxft.core.reading import DAMAGE, TEXT_BYTES, Unreadable, check_size
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.files import Files
from jaxft.data.readers.parquet_files import open_parquet, read_cells

LABEL_COLUMNS = ("label", "class")
MOST_COLUMNS = 10_000
CELL_BYTES = 8  # at least, in memory

Columns = Mapping[str, Sequence[Any]]


def read_columns(files: Files, name: str) -> Columns:
    """Returns the columns of a table by name. CSV and TSV cells are strings; JSON and Parquet cells keep their type.

    Raises:
      UserError: the file is not a readable table.
    """
    try:
        if name.endswith(".parquet"):
            return read_cells(open_parquet(files, name))
        text = files.content(name, TEXT_BYTES).decode("utf-8-sig")
        return _of_jsonl(text) if name.endswith(".jsonl") else _of_csv(text, "\t" if name.endswith(".tsv") else ",")
    except UserError:
        raise
    except DAMAGE as error:  # the errors of pandas, json and Arrow are among them
        raise UserError(f"{name!r} in {str(files.path)!r} cannot be read as a table: {reason_of(error)}.") from None


def _of_jsonl(text: str) -> Columns:
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    columns = dict.fromkeys(key for line in lines for key in line)
    _check_shape(len(lines), len(columns))
    return {key: [line.get(key) for line in lines] for key in columns}


def _of_csv(text: str, separator: str) -> Columns:
    import pandas as pd

    _check_shape(1, text.partition("\n")[0].count(separator) + 1)
    frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    _check_shape(*frame.shape)
    return {str(column).strip(): frame[column].tolist() for column in frame}


def _check_shape(num_rows: int, num_columns: int) -> None:
    """Checks the numbers of rows and columns of a table.

    Raises:
      Unreadable: it has too many columns or cells.
    """
    if num_columns > MOST_COLUMNS:
        raise Unreadable(f"it has {num_columns:,} columns, more than {MOST_COLUMNS:,}")
    check_size(num_rows * num_columns * CELL_BYTES, TEXT_BYTES)


def column_of(columns: Columns, names: Iterable[str]) -> str | None:
    """Returns the first of `names` that is a column, or None if no name is."""
    return next((name for name in names if name in columns), None)


def is_empty(value: Any) -> bool:
    """Returns whether a cell is empty: None, blank or NaN."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def is_unicode(text: str) -> bool:
    """Returns whether a text has only Unicode characters; JSON can contain half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def class_name_of(value: Any) -> str | None:
    """Returns the class of a cell, or None if the cell is empty or not a single value.

    Blanks around a name are removed. Whole numbers have no decimals: 1.0 is '1'. Booleans are 'False' and 'True'.
    """
    if is_empty(value) or isinstance(value, Mapping | list | tuple | bytes):
        return None
    if isinstance(value, str) and not is_unicode(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def in_numeric_order(class_names: Iterable[str]) -> tuple[str, ...] | None:
    """Returns distinct classes that are all whole numbers, in the order of the numbers; None if one is not a number."""
    names = set(class_names)
    if not names or not all(re.fullmatch(r"[+-]?[0-9]{1,18}", name) for name in names):
        return None
    return tuple(sorted(names, key=lambda name: (int(name), name)))
