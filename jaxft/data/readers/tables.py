"""Reader of tables with one row per image (.csv, .tsv, .jsonl, .parquet).

The column `file`, `file_name`, `filename` or `path` has the path of the image file, relative to the table. The column
`label` or `class` (or the column `Images.label`) has the class. The optional column `domain` has the domain, and `part`
or `split` the split. Without these columns, the top folder of the path is the split. A table `metadata.csv`, `.jsonl`
or `.parquet` next to image files is the imagefolder layout of Hugging Face; each split may have its own table.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxft.core.errors import UserError
from jaxft.core.text import some_of
from jaxft.data.readers.archives import read_file
from jaxft.data.readers.columns import LABEL_COLUMNS, Columns, column_of, is_empty, read_columns
from jaxft.data.readers.file_names import SUBSETS
from jaxft.data.readers.files import Files
from jaxft.data.readers.listing import ListedImage, Listing
from jaxft.data.readers.location import Location

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
FILE_COLUMNS = ("file", "file_name", "filename", "path")
SUBSET_COLUMNS = ("part", "split")

Find = Callable[[str], Callable[[], bytes]]  # returns the function that reads a file, from the name of the file


@dataclass(frozen=True)
class Table:
    """A table of images.

    Attributes:
      columns: the columns by name.
      folder: prefix of the file names, '' or with a trailing slash.
      where: name of the table for error messages.
    """

    columns: Columns
    folder: str
    where: str


def read_table(location: Location) -> Listing | None:
    """Returns the images of a table, or None if the location is not a table.

    Raises:
      UserError: the table cannot be read, or a column, file or class is missing.
    """
    path = location.path
    if path.suffix not in TABLES or not location.is_file:
        return None
    columns = read_columns(Files(path, {path.name: path.read_bytes}), path.name)

    def find(name: str) -> Callable[[], bytes]:
        return functools.partial(read_file, Path(os.path.normpath(path.parent / name)))

    return _list_tables(path, [Table(columns, "", repr(str(path)))], find, location.label)


def read_metadata(location: Location) -> Listing | None:
    """Returns the images of the `metadata` tables of a folder or archive, or None if no such table has classes.

    Raises:
      UserError: a table cannot be read, or a column, file or class is missing.
    """
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
    """Returns the files that are tables named `metadata`, sorted."""
    return sorted(name for name in files if PurePosixPath(name).stem == "metadata" and name.endswith(TABLES))


def _missing() -> bytes:
    raise ValueError("the file does not exist")


def _list_tables(path: Path, tables: Sequence[Table], find: Find, label: str | None) -> Listing:
    label_columns = [_label_column(table, label) for table in tables]
    images = [image for table, column in zip(tables, label_columns) for image in _images_of_table(table, column, find)]
    images.sort(key=lambda image: PurePosixPath(image.name).parts)
    for one, other in itertools.pairwise(images):
        if one.name == other.name:
            raise UserError(
                f"{str(path)!r} lists {one.name!r} twice, with the classes {one.class_name!r} and {other.class_name!r}."
            )
    if not images:
        raise UserError(f"{str(path)!r} contains no images.")
    classes = (value for table, column in zip(tables, label_columns) for value in table.columns[column])
    is_numeric = all(isinstance(value, int) or str(value).isdecimal() for value in classes)
    names = sorted({image.class_name for image in images}, key=int) if is_numeric else None
    return Listing(tuple(images), tuple(names) if names else None)


def _label_column(table: Table, label: str | None) -> str:
    """Returns the column of the classes.

    Raises:
      UserError: the table has no column of classes, or no column of files.
    """
    column = label or column_of(table.columns, LABEL_COLUMNS)
    if column_of(table.columns, FILE_COLUMNS) is None or column is None or column not in table.columns:
        needed = f"a column {_either(FILE_COLUMNS)} and a column {repr(label) if label else _either(LABEL_COLUMNS)}"
        available = f"its columns are {some_of(list(table.columns), 3)}" if table.columns else "it has no columns"
        raise UserError(f"{table.where} needs {needed}; {available}.")
    return column


def _images_of_table(table: Table, label_column: str, find: Find) -> Iterator[ListedImage]:
    columns, where = table.columns, table.where
    file_column, subset_column = column_of(columns, FILE_COLUMNS), column_of(columns, SUBSET_COLUMNS)
    assert file_column is not None
    for row, (file, value) in enumerate(zip(columns[file_column], columns[label_column])):
        name = str(PurePosixPath(table.folder) / str(file)) if file else ""
        if not name or is_empty(value):
            raise UserError(f"{where} has no {'class' if name else 'file'} in row {row + 1}.")
        subset = str(columns[subset_column][row] or "") if subset_column else name.split("/")[0]
        if subset and subset.lower() not in SUBSETS and subset_column:
            raise UserError(f"{where} has the split {subset!r} in row {row + 1}; allowed: {', '.join(SUBSETS)}.")
        domain = str(columns["domain"][row] or "") if "domain" in columns else ""
        yield ListedImage(name, str(value), SUBSETS.get(subset.lower(), ""), domain, find(name))


def _either(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))
