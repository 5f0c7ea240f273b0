"""Tables of pictures (.csv, .tsv, .jsonl, .parquet), with a row for each.

A picture's file is in a column `file`, `file_name`, `filename` or `path`, its class in `label` or `class` (or the one
named by `Images.label`), and perhaps its `domain`, and its part in `subset` or `split`; else the folder at the top
tells the part. Files are relative to the table. A table `metadata.csv`, `.jsonl` or `.parquet` beside pictures is
Hugging Face's imagefolder; each part may have its own.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxft.core.errors import UserError
from jaxft.data.readers.archives import read_file
from jaxft.data.readers.columns import LABEL_COLUMNS, Columns, column_of, is_empty, read_columns
from jaxft.data.readers.file_names import SUBSETS
from jaxft.data.readers.files import Files
from jaxft.data.readers.listing import ListedPicture, Listing
from jaxft.data.readers.location import Location

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
FILE_COLUMNS = ("file", "file_name", "filename", "path")
SUBSET_COLUMNS = ("part", "split")

Find = Callable[[str], Callable[[], bytes]]  # from a file's name to what reads it


@dataclass(frozen=True)
class Table:
    """A table of pictures: its columns, what comes before the names of its files, and its name for messages."""

    columns: Columns
    folder: str
    where: str


def read_table(location: Location) -> Listing | None:
    """Returns the pictures that a table lists."""
    path = location.path
    if path.suffix not in TABLES or not location.is_file:
        return None
    columns = read_columns(Files(path, {path.name: path.read_bytes}), path.name)

    def find(name: str) -> Callable[[], bytes]:
        return functools.partial(read_file, Path(os.path.normpath(path.parent / name)))

    return _list_tables(path, [Table(columns, "", repr(str(path)))], find, location.label)


def read_metadata(location: Location) -> Listing | None:
    """Returns the pictures that tables beside them list; None if the tables name no classes."""
    path, files, label = location.path, location.files, location.label
    tables = []
    for name in metadata_tables(files):
        columns = read_columns(files, name)
        if columns and column_of(columns, FILE_COLUMNS) and (column_of(columns, LABEL_COLUMNS) or label in columns):
            folder = PurePosixPath(name).parent
            where = f"{name!r} in {str(path)!r}"
            tables.append(Table(columns, "" if str(folder) == "." else f"{folder}/", where))
    return _list_tables(path, tables, lambda name: files.get(name, _missing), label) if tables else None


def metadata_tables(files: Iterable[str]) -> list[str]:
    """Returns which files are tables that may list the others."""
    return sorted(name for name in files if PurePosixPath(name).stem == "metadata" and name.endswith(TABLES))


def _missing() -> bytes:
    raise ValueError("there is no such file")


def _list_tables(path: Path, tables: Sequence[Table], find: Find, label: str | None) -> Listing:
    of_labels = [_label_column(table, label) for table in tables]
    pictures = [
        picture for table, column in zip(tables, of_labels) for picture in _pictures_of_table(table, column, find)
    ]
    pictures.sort(key=lambda picture: PurePosixPath(picture.name).parts)
    for one, other in itertools.pairwise(pictures):
        if one.name == other.name:
            raise UserError(f"{str(path)!r} lists {one.name!r} twice, as {one.class_name!r} and {other.class_name!r}.")
    if not pictures:
        raise UserError(f"{str(path)!r} has no images in it.")
    classes = (value for table, column in zip(tables, of_labels) for value in table.columns[column])
    numeric = all(isinstance(value, int) or str(value).isdecimal() for value in classes)
    names = sorted({picture.class_name for picture in pictures}, key=int) if numeric else None
    return Listing(tuple(pictures), tuple(names) if names else None)


def _label_column(table: Table, label: str | None) -> str:
    """Returns the column of the classes. Raises a `UserError` if there is none, or no column of files."""
    column = label or column_of(table.columns, LABEL_COLUMNS)
    if column_of(table.columns, FILE_COLUMNS) is None or column is None or column not in table.columns:
        wanted = f"a column {_either(FILE_COLUMNS)}, and {repr(label) if label else _either(LABEL_COLUMNS)}"
        raise UserError(f"{table.where} needs {wanted}; it has {', '.join(table.columns) or 'nothing'}.")
    return column


def _pictures_of_table(table: Table, of_label: str, find: Find) -> Iterator[ListedPicture]:
    columns, where = table.columns, table.where
    of_file, of_subset = column_of(columns, FILE_COLUMNS), column_of(columns, SUBSET_COLUMNS)
    assert of_file is not None
    for number, (file, value) in enumerate(zip(columns[of_file], columns[of_label])):
        name = str(PurePosixPath(table.folder) / str(file)) if file else ""
        if not name or is_empty(value):
            raise UserError(f"{where} has no {'class' if name else 'file'} in row {number + 1}.")
        subset = str(columns[of_subset][number] or "") if of_subset else name.split("/")[0]
        if subset and subset.lower() not in SUBSETS and of_subset:
            raise UserError(f"{where} has the part {subset!r} in row {number + 1}; allowed: {', '.join(SUBSETS)}.")
        domain = str(columns["domain"][number] or "") if "domain" in columns else ""
        yield ListedPicture(name, str(value), SUBSETS.get(subset.lower(), ""), domain, find(name))


def _either(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))
