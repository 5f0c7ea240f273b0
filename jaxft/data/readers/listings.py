"""Lists of pictures with their classes: from the folders that they are in, from tables of files, from Parquet files.

Class folders, in a folder or an archive:

    cat/1.jpg                 class/picture
    train/cat/1.jpg           part/class/picture, where a part is train, val or test (PARTS has other words for them)
    photo/train/cat/1.jpg     domain/part/class/picture
    photo/cat/1.jpg           domain/class/picture, where no folder at the top is a part

Tables (.csv, .tsv, .jsonl, .parquet) have a row a picture, with its file in a column `file`, `file_name`, `filename`
or `path`, its class in `label` or `class` (or the one named by `Images.label`), and perhaps its `domain`, and its part
in `part` or `split`; else the folder at the top tells it. Files are relative to the table. A table `metadata.csv`,
`.jsonl` or `.parquet` beside pictures is Hugging Face's imagefolder; each part may have its own. Its Parquet files have
the pictures themselves in them, and their part in the name: `train-00000-of-00002.parquet`, `train/0000.parquet`.
"""

import functools
import io
import itertools
import json
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxft.core.errors import UserError, did_you_mean
from jaxft.data.readers.archives import Member, read_file
from jaxft.data.readers.pictures import FAILURES, SUFFIXES, is_hidden, is_picture, shortened

PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
FILE_COLUMNS = ("file", "file_name", "filename", "path")
LABEL_COLUMNS = ("label", "class")
PART_COLUMNS = ("part", "split")

Files = Mapping[str, Callable[[], bytes]]
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Listed:
    """A picture: its name, the class and part ('' for none) and domain ('' for none) it is of, how to read it.

    What is read is the content of a picture's file, or its pixels [height, width (, 1 or 3)] uint8.
    """

    name: str
    class_name: str
    part: str
    domain: str
    read: Callable[[], bytes | np.ndarray]


@dataclass(frozen=True)
class Listing:
    """Pictures in one order, whatever they came in.

    Attributes:
      pictures: none twice by name.
      class_names: where what lists them says so; none: those of the pictures, sorted.
      by_name: whether names tell class and part.
      passed_over: files that are no picture by their names.
    """

    pictures: tuple[Listed, ...]
    class_names: tuple[str, ...] | None = None
    by_name: bool = False
    passed_over: tuple[str, ...] = ()


# --- class folders ----------------------------------------------------------------------------------------------


def list_members(path: Path, members: Sequence[Member], label: str | None) -> Listing:
    """Returns the pictures among the files of a folder or an archive, by whatever lists them."""
    files = {str(name): read for name, read in members if not is_hidden(name)}
    tables = [name for name in files if PurePosixPath(name).stem == "metadata" and name.endswith(TABLES)]
    if tables and (found := _list_metadata(path, sorted(tables), files, label)):
        return found
    packed = sorted(name for name in files if name.endswith(".parquet") and name not in tables)
    if packed and not any(is_picture(PurePosixPath(name)) for name in files):
        return _list_parquet(path, packed, files, label)
    if label is not None:
        raise UserError(f"{str(path)!r} has no labels {label!r}: its classes are the names of its folders.")
    return _list_folders(path, members)


def _list_folders(path: Path, members: Sequence[Member]) -> Listing:
    pictures = [(name, read) for name, read in members if is_picture(name)]
    if not pictures:
        raise UserError(f"{str(path)!r} has no images in it ({', '.join(sorted(SUFFIXES))}).")
    while all(len(name.parts) > 2 for name, _ in pictures) and len({name.parts[0] for name, _ in pictures}) == 1:
        if pictures[0][0].parts[0].lower() in PARTS:
            break
        pictures = [(PurePosixPath(*name.parts[1:]), read) for name, read in pictures]
    pictures.sort(key=lambda member: member[0].parts)
    domains = all(len(name.parts) == 3 and name.parts[0].lower() not in PARTS for name, _ in pictures)
    passed_over = [str(name) for name, _ in members if not is_picture(name) and not is_hidden(name)]
    return Listing(
        tuple(Listed(str(name), *_place(name, path, domains), read) for name, read in pictures),
        by_name=True,
        passed_over=tuple(sorted(passed_over)),
    )


def _place(name: PurePosixPath, path: Path, domains: bool) -> tuple[str, str, str]:
    """Returns the class, the part and the domain that a picture's folders tell; `domains`: the first of two is one."""
    match name.parts[:-1]:
        case (class_name,):
            return class_name, "", ""
        case (part, class_name) if part.lower() in PARTS:
            return class_name, PARTS[part.lower()], ""
        case (domain, class_name) if domains:
            return class_name, "", domain
        case (domain, part, class_name) if part.lower() in PARTS:
            return class_name, PARTS[part.lower()], domain
    raise UserError(
        f"{str(path)!r} has the picture '{name}' outside of the layout class/picture, train|val|test/class/picture, "
        "domain/class/picture or domain/train|val|test/class/picture."
    )


# --- tables of files --------------------------------------------------------------------------------------------


def list_table(path: Path, label: str | None) -> Listing:
    """Returns the pictures that a table lists; a Parquet file may have the pictures themselves in it."""
    files = {path.name: path.read_bytes}
    if path.suffix == ".parquet" and _image_columns(_parquet(path, path.name, files).schema_arrow):
        return _list_parquet(path, [path.name], files, label)
    rows = _rows(path, path.name, files)

    def find(name: str) -> Callable[[], bytes]:
        return functools.partial(read_file, Path(os.path.normpath(path.parent / name)))

    return _list_rows(path, [("", path.name, rows)], find, label)


def _list_metadata(path: Path, tables: Sequence[str], files: Files, label: str | None) -> Listing | None:
    """Returns what tables beside pictures list, or None where they say no classes."""
    found = []
    for name in tables:
        rows = _rows(path, name, files)
        if rows and _column(rows, FILE_COLUMNS) and (_column(rows, LABEL_COLUMNS) or label in rows):
            folder = PurePosixPath(name).parent
            found.append(("" if str(folder) == "." else f"{folder}/", name, rows))
    if not found:
        return None

    def find(name: str) -> Callable[[], bytes]:
        if name in files:
            return files[name]

        def missing() -> bytes:
            raise ValueError("there is no such file")

        return missing

    return _list_rows(path, found, find, label)


def _list_rows(
    path: Path,
    tables: Sequence[tuple[str, str, Columns]],
    find: Callable[[str], Callable[[], bytes]],
    label: str | None,
) -> Listing:
    """Returns the pictures of tables, each (what to put before its files' names, its own name, its columns)."""
    pictures: list[Listed] = []
    numeric = True
    for folder, table, rows in tables:
        where = f"{table!r} in {str(path)!r}" if table != path.name else repr(str(path))
        of_file, of_label = _column(rows, FILE_COLUMNS), label or _column(rows, LABEL_COLUMNS)
        if of_file is None or of_label is None or of_label not in rows:
            wanted = f"a column {' or '.join(map(repr, FILE_COLUMNS))}, and {_or(label, LABEL_COLUMNS)}"
            raise UserError(f"{where} needs {wanted}; it has {', '.join(rows) or 'nothing'}.")
        of_part, of_domain = _column(rows, PART_COLUMNS), _column(rows, ("domain",))
        numeric &= all(isinstance(value, int) or str(value).isdecimal() for value in rows[of_label])
        for number, (file, value) in enumerate(zip(rows[of_file], rows[of_label])):
            name = str(PurePosixPath(folder) / str(file)) if file else ""
            if not name or _is_none(value):
                raise UserError(f"{where} has no {'class' if name else 'file'} in row {number + 1}.")
            part = str(rows[of_part][number] or "") if of_part else name.split("/")[0]
            if part and part.lower() not in PARTS and of_part:
                raise UserError(f"{where} has the part {part!r} in row {number + 1}; allowed: {', '.join(PARTS)}.")
            domain = str(rows[of_domain][number] or "") if of_domain else ""
            pictures.append(Listed(name, str(value), PARTS.get(part.lower(), ""), domain, find(name)))
    pictures.sort(key=lambda picture: PurePosixPath(picture.name).parts)
    for one, other in itertools.pairwise(pictures):
        if one.name == other.name:
            raise UserError(f"{str(path)!r} lists {one.name!r} twice, as {one.class_name!r} and {other.class_name!r}.")
    if not pictures:
        raise UserError(f"{str(path)!r} has no images in it.")
    names = sorted({picture.class_name for picture in pictures}, key=int) if numeric else None
    return Listing(tuple(pictures), tuple(names) if names else None)


def _rows(path: Path, name: str, files: Files) -> Columns:
    """Returns the columns of a table: texts, or what JSON and Parquet say."""
    if name.endswith(".parquet"):
        return _parquet(path, name, files).read().to_pydict()
    try:
        text = _content(path, name, files).decode("utf-8-sig")
        if name.endswith(".jsonl"):
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
            columns = dict.fromkeys(key for line in lines for key in line)
            return {key: [line.get(key) for line in lines] for key in columns}
        import pandas as pd

        separator = "\t" if name.endswith(".tsv") else ","
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
        return {str(column): frame[column].tolist() for column in frame}
    except UserError:
        raise
    except (ValueError, AttributeError) as error:  # pandas' and JSON's own are ValueErrors
        raise UserError(f"{name!r} of {str(path)!r} cannot be read as a table: {shortened(error)}.") from None


def _column(rows: Columns, names: Iterable[str]) -> str | None:
    return next((name for name in names if name in rows), None)


def _or(label: str | None, names: Iterable[str]) -> str:
    return repr(label) if label else " or ".join(map(repr, names))


def _is_none(value: Any) -> bool:
    return value is None or value == "" or value != value


def _content(path: Path, name: str, files: Files) -> bytes:
    try:
        return files[name]()
    except FAILURES as error:
        raise UserError(f"{name!r} in {str(path)!r} cannot be read: {shortened(error)}.") from None


# --- pictures within Parquet files ------------------------------------------------------------------------------


def _list_parquet(path: Path, names: Sequence[str], files: Files, label: str | None) -> Listing:
    """Returns the pictures of Parquet files as Hugging Face's `datasets` writes them.

    A picture is a struct of its bytes and its path; a class is a name, or a number whose name is in the schema.
    """
    pictures: list[Listed] = []
    declared: tuple[str, ...] | None = None
    for name in names:
        file = _parquet(path, name, files)
        images = _image_columns(file.schema_arrow)
        if not images:
            raise UserError(f"{name!r} in {str(path)!r} has no column of pictures; it has {_names(file)}.")
        column = _label_column(path, name, file, label)
        labels = file.read(columns=[column])[column].to_pylist()
        known = _class_names(file.schema_arrow, column)
        declared = declared or known
        for number, value in enumerate(labels):
            if _is_none(value) or (known and not (isinstance(value, int) and 0 <= value < len(known))):
                raise UserError(f"{name!r} in {str(path)!r} has the class {value!r} in row {number + 1}.")
        groups = _RowGroups(file, images[0])
        pictures += [
            Listed(
                f"{name}:{number}",
                known[value] if known else str(value),
                _part_of(name),
                "",
                functools.partial(groups.read, number),
            )
            for number, value in enumerate(labels)
        ]
    if not pictures:
        raise UserError(f"{str(path)!r} has no images in it.")
    numbers = {picture.class_name for picture in pictures}
    if declared is None and all(name.isdecimal() for name in numbers):
        declared = tuple(sorted(numbers, key=int))
    return Listing(tuple(pictures), declared)


class _RowGroups:
    """Pictures of a Parquet file, a row group of it in memory at a time."""

    def __init__(self, file: Any, column: str):
        self.file, self.column = file, column
        groups = range(file.metadata.num_row_groups)
        self.ends = np.cumsum([file.metadata.row_group(group).num_rows for group in groups])
        self._one = threading.Lock()
        self._kept: dict[int, Any] = {}

    def read(self, number: int) -> bytes:
        """Returns the content of the picture in a row."""
        group = int(np.searchsorted(self.ends, number, side="right"))
        with self._one:
            if group not in self._kept:
                # Threads may be at the end of one and the beginning of the next.
                self._kept = dict(list(self._kept.items())[-1:])
                self._kept[group] = self.file.read_row_group(group, columns=[self.column])[self.column]
            values = self._kept[group]
        value = values[number - (int(self.ends[group - 1]) if group else 0)].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise ValueError("the row has no picture in it")
        return bytes(content)


def _parquet(path: Path, name: str, files: Files) -> Any:
    """Returns a Parquet file, of which nothing is in memory yet, unless it lies in an archive."""
    import pyarrow as pa
    from pyarrow import parquet

    place = path / name if path.is_dir() else path
    try:
        if place.suffix == ".parquet":
            return parquet.ParquetFile(place)
        return parquet.ParquetFile(pa.BufferReader(_content(path, name, files)))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name!r} of {str(path)!r} cannot be read as Parquet: {shortened(error)}.") from None


def _image_columns(schema: Any) -> list[str]:
    """Returns the columns of pictures: structs with bytes in them, or bytes alone."""
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return [field.name for field in schema if holds(field.type)]


def _names(file: Any) -> str:
    return ", ".join(file.schema_arrow.names)


def _features(schema: Any) -> Mapping[str, Any]:
    """Returns what Hugging Face's `datasets` says of each column, in the file's metadata."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    feature = _features(schema).get(column)
    names = feature.get("names", ()) if isinstance(feature, dict) else ()
    return tuple(map(str, names))


def _label_column(path: Path, name: str, file: Any, label: str | None) -> str:
    columns = file.schema_arrow.names
    classes = [column for column in columns if _class_names(file.schema_arrow, column)]
    if label is not None and label not in columns:
        raise UserError(
            f"{name!r} in {str(path)!r} has no labels {label!r}{did_you_mean(label, columns)}; it has {_names(file)}."
        )
    found = label or next((column for column in LABEL_COLUMNS if column in columns), None)
    if found is None and len(classes) == 1:
        found = classes[0]
    if found is None:
        several = (
            f"several labels, {', '.join(classes)}: name one of them in 'label'" if classes else "no column 'label'"
        )
        raise UserError(f"{name!r} in {str(path)!r} has {several}.")
    return found


def _part_of(name: str) -> str:
    """Returns the part that a file's name or folder tells: `train-00000-of-00002.parquet`, `train/0000.parquet`."""
    path = PurePosixPath(name)
    words = [re.split(r"[-_.]", path.name)[0], *reversed(path.parent.parts)]
    return next((PARTS[word.lower()] for word in words if word.lower() in PARTS), "")


# --- spelling ---------------------------------------------------------------------------------------------------


def spellings(counts: Mapping[str, int]) -> list[list[str]]:
    """Returns classes that are one word spelt in several ways, the most frequent first of each.

    Case, Unicode's forms, and spaces, hyphens and underscores make no difference; single characters do: 'a' and 'A'.
    """
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(_plain(name), []).append(name)
    return [sorted(names, key=lambda name: (-counts[name], name)) for names in groups.values() if len(names) > 1]


def _plain(name: str) -> str:
    form = unicodedata.normalize("NFKC", name)
    return " ".join(re.split(r"[\s_-]+", form.casefold() if len(form) > 1 else form)).strip()
