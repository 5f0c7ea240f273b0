"""Pictures within Parquet files, as Hugging Face's `datasets` writes them.

Their part is in the name of the file: `train-00000-of-00002.parquet`, `train/0000.parquet`.
"""

import functools
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from jaxft.core.errors import UserError, did_you_mean
from jaxft.data.readers.columns import LABEL_COLUMNS, is_empty
from jaxft.data.readers.file_names import SUBSETS, is_picture
from jaxft.data.readers.files import Files
from jaxft.data.readers.listing import ListedPicture, Listing
from jaxft.data.readers.location import Location
from jaxft.data.readers.parquet_files import open_parquet


def read_parquet_file(location: Location) -> Listing | None:
    """Returns the pictures in a Parquet file; None if it has no column of pictures."""
    path = location.path
    if path.suffix != ".parquet" or not location.is_file:
        return None
    files = Files(path, {path.name: path.read_bytes})
    if not _image_columns(open_parquet(files, path.name).schema_arrow):
        return None
    return _list_pictures(files, [path.name], location.label)


def read_parquet_files(location: Location) -> Listing | None:
    """Returns the pictures in the Parquet files of a folder or archive that has no other pictures."""
    names = sorted(
        name for name in location.files if name.endswith(".parquet") and PurePosixPath(name).stem != "metadata"
    )
    if not names or any(is_picture(PurePosixPath(name)) for name in location.files):
        return None
    return _list_pictures(location.files, names, location.label)


def _list_pictures(files: Files, names: Sequence[str], label: str | None) -> Listing:
    """Returns the pictures of Parquet files.

    A picture is a struct of its bytes and its path; a class is a name, or a number whose name is in the schema.
    """
    pictures: list[ListedPicture] = []
    declared: tuple[str, ...] | None = None
    for name in names:
        file = open_parquet(files, name)
        where = f"{name!r} in {str(files.path)!r}"
        column = _label_column(where, file, label)
        declared = declared or _class_names(file.schema_arrow, column)
        pictures += _pictures_of_file(name, where, file, column)
    if not pictures:
        raise UserError(f"{str(files.path)!r} has no images in it.")
    numbers = {picture.class_name for picture in pictures}
    if declared is None and all(name.isdecimal() for name in numbers):
        declared = tuple(sorted(numbers, key=int))
    return Listing(tuple(pictures), declared)


def _pictures_of_file(name: str, where: str, file: Any, column: str) -> Iterator[ListedPicture]:
    labels = file.read(columns=[column])[column].to_pylist()
    known = _class_names(file.schema_arrow, column)
    for number, value in enumerate(labels):
        if is_empty(value) or (known and not (isinstance(value, int) and 0 <= value < len(known))):
            raise UserError(f"{where} has the class {value!r} in row {number + 1}.")
    groups = _RowGroups(file, _image_columns(file.schema_arrow)[0])
    for number, value in enumerate(labels):
        class_name = known[value] if known else str(value)
        read = functools.partial(groups.read, number)
        yield ListedPicture(f"{name}:{number}", class_name, _subset_of(name), "", read)


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


def _image_columns(schema: Any) -> list[str]:
    """Returns the columns of pictures: structs with bytes in them, or bytes alone."""
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return [field.name for field in schema if holds(field.type)]


def _features(schema: Any) -> Mapping[str, Any]:
    """Returns what Hugging Face's `datasets` says of each column, in the file's metadata."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    feature = _features(schema).get(column)
    names = feature.get("names", ()) if isinstance(feature, dict) else ()
    return tuple(map(str, names))


def _label_column(where: str, file: Any, label: str | None) -> str:
    columns = file.schema_arrow.names
    if not _image_columns(file.schema_arrow):
        raise UserError(f"{where} has no column of pictures; it has {', '.join(columns)}.")
    classes = [column for column in columns if _class_names(file.schema_arrow, column)]
    if label is not None and label not in columns:
        raise UserError(f"{where} has no labels {label!r}{did_you_mean(label, columns)}; it has {', '.join(columns)}.")
    column = label or next((column for column in LABEL_COLUMNS if column in columns), None)
    if column is None and len(classes) == 1:
        column = classes[0]
    if column is None:
        several = (
            f"several labels, {', '.join(classes)}: name one of them in 'label'" if classes else "no column 'label'"
        )
        raise UserError(f"{where} has {several}.")
    return column


def _subset_of(name: str) -> str:
    """Returns the part that a file's name or folder tells: `train-00000-of-00002.parquet`, `train/0000.parquet`."""
    path = PurePosixPath(name)
    words = [re.split(r"[-_.]", path.name)[0], *reversed(path.parent.parts)]
    return next((SUBSETS[word.lower()] for word in words if word.lower() in SUBSETS), "")
