"""Reader of tables with one row per image (.csv, .tsv, .jsonl, .parquet).

The first column of `FILE_COLUMNS` has the path of the image file, relative to the table; the suffix may be missing. The
column `label` or `class` (or the column `Images.label`) has the class. The optional column `domain` has the domain, and
`part` or `split` the split. Without these columns, the top folder of the path is the split. A table `metadata.csv`,
`.jsonl` or `.parquet` next to image files is the imagefolder layout of Hugging Face; each split may have its own table.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from jaxft.core.errors import UserError
from jaxft.core.text import cut_off, some_of
from jaxft.data.readers.archives import read_on_disk
from jaxft.data.readers.columns import (
    LABEL_COLUMNS,
    Columns,
    class_name_of,
    column_of,
    in_numeric_order,
    is_empty,
    read_columns,
)
from jaxft.data.readers.file_names import subset_of
from jaxft.data.readers.files import Files
from jaxft.data.readers.listing import ListedImage, Listing
from jaxft.data.readers.location import Location
from jaxft.data.readers.named_files import DiskFiles, ListedFiles, NamedFiles, with_slashes

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
FILE_COLUMNS = ("file", "file_name", "filename", "path", "filepath", "image_path", "image_name", "image_id", "id")
SUBSET_COLUMNS = ("part", "split")


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
    columns = read_columns(Files(path, {path.name: partial(read_on_disk, path)}), path.name)
    return _list_tables(path, [Table(columns, "", repr(str(path)))], DiskFiles(path.parent), location.label)


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
    return _list_tables(path, tables, ListedFiles(files), label) if tables else None


def metadata_tables(files: Iterable[str]) -> list[str]:
    """Returns the files that are tables named `metadata`, sorted."""
    return sorted(name for name in files if PurePosixPath(name).stem == "metadata" and name.endswith(TABLES))


def _list_tables(path: Path, tables: Sequence[Table], find: NamedFiles, label: str | None) -> Listing:
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
    return Listing(tuple(images), in_numeric_order(image.class_name for image in images))


def _label_column(table: Table, label: str | None) -> str:
    """Returns the column of the classes.

    Raises:
      UserError: the table has no column of classes, or no column of files.
    """
    column = label or column_of(table.columns, LABEL_COLUMNS)
    if column_of(table.columns, FILE_COLUMNS) is None or column is None or column not in table.columns:
        needed = f"a column {_either(FILE_COLUMNS[:4])} and a column {repr(label) if label else _either(LABEL_COLUMNS)}"
        available = f"its columns are {some_of(list(table.columns), 3)}" if table.columns else "it has no columns"
        raise UserError(f"{table.where} needs {needed}; {available}.")
    return column


def _images_of_table(table: Table, label_column: str, find: NamedFiles) -> Iterator[ListedImage]:
    columns, where = table.columns, table.where
    file_column, subset_column = column_of(columns, FILE_COLUMNS), column_of(columns, SUBSET_COLUMNS)
    assert file_column is not None
    for row, (file, value) in enumerate(zip(columns[file_column], columns[label_column])):
        if is_empty(file) or is_empty(value):
            raise UserError(f"{where} has no {'file' if is_empty(file) else 'class'} in row {row + 1}.")
        class_name = class_name_of(value)
        if class_name is None:
            shown = cut_off(repr(value), 40)
            raise UserError(f"{where} has the class {shown} in row {row + 1}; a class must be a name or a number.")
        written = str(PurePosixPath(table.folder) / str(file).strip())
        candidates = find.candidates(written)
        if len(candidates) > 1:
            raise UserError(f"{where} has {written!r} in row {row + 1}, which may be {some_of(sorted(candidates))}.")
        name = str(PurePosixPath(candidates[0] if candidates else with_slashes(written)))
        subset = str(columns[subset_column][row] or "").strip() if subset_column else name.split("/")[0]
        if subset and not subset_of(subset) and subset_column:
            raise UserError(f"{where} has the split {subset!r} in row {row + 1}; allowed: train, val and test.")
        domain = str(columns["domain"][row] or "").strip() if "domain" in columns else ""
        yield ListedImage(name, class_name, subset_of(subset), domain, find.read(name))


def _either(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))
