"""Columns of a table in CSV, TSV, JSON Lines or Parquet format."""

import io
import json
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
    return {str(column): frame[column].tolist() for column in frame}


def column_of(columns: Columns, names: Iterable[str]) -> str | None:
    """Returns the first of `names` that is a column, or None if no name is."""
    return next((name for name in names if name in columns), None)


def is_empty(value: Any) -> bool:
    """Returns whether a cell is empty: None, '' or NaN."""
    return value is None or value == "" or value != value
