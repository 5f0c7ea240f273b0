"""Columns of a table in CSV, TSV, JSON Lines or Parquet format."""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxft.core.errors import UserError
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.files import Files
from jaxft.data.readers.parquet_files import open_parquet

LABEL_COLUMNS = ("label", "class")

Columns = Mapping[str, Sequence[Any]]


def read_columns(files: Files, name: str) -> Columns:
    """Returns the columns of a table by name. CSV and TSV cells are strings; JSON and Parquet cells keep their type.

    Raises:
      UserError: the file is not a readable table.
    """
    if name.endswith(".parquet"):
        return open_parquet(files, name).read().to_pydict()
    try:
        text = files.content(name).decode("utf-8-sig")
        return _of_jsonl(text) if name.endswith(".jsonl") else _of_csv(text, "\t" if name.endswith(".tsv") else ",")
    except UserError:
        raise
    except (ValueError, AttributeError) as error:  # the errors of pandas and json are ValueErrors
        raise UserError(f"{name!r} in {str(files.path)!r} cannot be read as a table: {reason_of(error)}.") from None


def _of_jsonl(text: str) -> Columns:
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    columns = dict.fromkeys(key for line in lines for key in line)
    return {key: [line.get(key) for line in lines] for key in columns}


def _of_csv(text: str, separator: str) -> Columns:
    import pandas as pd

    frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    return {str(column).strip(): frame[column].tolist() for column in frame}


def column_of(columns: Columns, names: Iterable[str]) -> str | None:
    """Returns the first of `names` that is a column, or None if no name is."""
    return next((name for name in names if name in columns), None)


def is_empty(value: Any) -> bool:
    """Returns whether a cell is empty: None, blank or NaN."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def class_name_of(value: Any) -> str | None:
    """Returns the class of a cell, or None if the cell is empty or not a single value.

    Blanks around a name are removed. Whole numbers have no decimals: 1.0 is '1'. Booleans are 'False' and 'True'.
    """
    if is_empty(value) or isinstance(value, Mapping | list | tuple | bytes):
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
