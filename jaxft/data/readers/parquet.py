"""Reader of images inside Parquet files, in the layout of the library `datasets` of Hugging Face.

The file name determines the split: `train-00000-of-00002.parquet`, `train/0000.parquet`.
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
from jaxft.core.reading import UNPACKED_BYTES
from jaxft.core.text import some_of
from jaxft.data.readers.archives import read_on_disk
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.columns import LABEL_COLUMNS, class_name_of, in_numeric_order
from jaxft.data.readers.file_names import is_picture, subset_of
from jaxft.data.readers.files import Files
from jaxft.data.readers.listing import ListedImage, Listing
from jaxft.data.readers.location import Location
from jaxft.data.readers.parquet_files import explained_parquet, open_parquet, read_cells, read_table


def read_parquet_file(location: Location) -> Listing | None:
    """Returns the images of a Parquet file, or None if it is not a Parquet file with an image column.

    Raises:
      UserError: the file cannot be read, or a label column or class is missing.
    """
    path = location.path
    if path.suffix != ".parquet" or not location.is_file:
        return None
    files = Files(path, {path.name: functools.partial(read_on_disk, path)})
    file = open_parquet(files, path.name)
    with explained_parquet(repr(str(path))):
        if not _image_columns(file.schema_arrow):
            return None
    return _list_images(files, [path.name], location.label)


def read_parquet_files(location: Location) -> Listing | None:
    """Returns the images of the Parquet files of a folder or archive, or None if it has no such files or image files.

    Raises:
      UserError: a file cannot be read, or a label column or class is missing.
    """
    names = sorted(
        name for name in location.files if name.endswith(".parquet") and PurePosixPath(name).stem != "metadata"
    )
    if not names or any(is_picture(PurePosixPath(name)) for name in location.files):
        return None
    return _list_images(location.files, names, location.label)


def _list_images(files: Files, names: Sequence[str], label: str | None) -> Listing:
    """Returns the images of Parquet files.

    An image is a struct with bytes and a path, or bytes. A class is a name, or a number whose name is in the schema.
    """
    images: list[ListedImage] = []
    declared: tuple[str, ...] | None = None
    for name in names:
        file = open_parquet(files, name)
        where = f"{name!r} in {str(files.path)!r}"
        with explained_parquet(where):
            column = _label_column(where, file, label)
            declared = declared or _class_names(file.schema_arrow, column)
            images += _images_of_file(name, where, file, column)
    if not images:
        raise UserError(f"{str(files.path)!r} contains no images.")
    return Listing(tuple(images), declared or in_numeric_order(image.class_name for image in images))


def _images_of_file(name: str, where: str, file: Any, column: str) -> Iterator[ListedImage]:
    labels = read_cells(file, [column])[column]
    class_names = _class_names(file.schema_arrow, column)
    for row, value in enumerate(labels):
        is_number = isinstance(value, int) and 0 <= value < len(class_names)
        if class_name_of(value) is None or (class_names and not is_number):
            allowed = f"a number from 0 to {len(class_names) - 1}" if class_names else "a name or a number"
            raise UserError(f"{where} has the class {value!r} in row {row + 1}; a class must be {allowed}.")
    groups = _RowGroups(file, _image_columns(file.schema_arrow)[0])
    for row, value in enumerate(labels):
        class_name = class_names[value] if class_names else str(class_name_of(value))
        read = functools.partial(groups.read, row)
        yield ListedImage(f"{name}:{row}", class_name, _subset_of(name), "", read)


class _RowGroups:
    """Images of a Parquet file. At most two row groups are in memory."""

    def __init__(self, file: Any, column: str):
        self.file, self.column = file, column
        groups = range(file.metadata.num_row_groups)
        self.ends = np.cumsum([file.metadata.row_group(group).num_rows for group in groups])
        self._lock = threading.Lock()
        self._loaded: dict[int, Any] = {}

    def read(self, row: int) -> bytes:
        """Returns the content of the image in a row.

        Raises:
          ValueError: the row has no image.
        """
        group = int(np.searchsorted(self.ends, row, side="right"))
        with self._lock:
            if group not in self._loaded:
                # Keeps the previous group too, because some threads may still read its last rows.
                self._loaded = dict(list(self._loaded.items())[-1:])
                self._loaded[group] = self._load(group)
            values = self._loaded[group]
        if isinstance(values, str):
            raise ValueError(values)
        value = values[row - (int(self.ends[group - 1]) if group else 0)].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise ValueError("the row has no image")
        return bytes(content)

    def _load(self, group: int) -> Any:
        """Returns the images of a row group, or the reason why it cannot be read, which is the same for all rows."""
        try:
            return read_table(self.file, [self.column], [group], UNPACKED_BYTES)[self.column]
        except Exception as error:  # as any failure to read an image
            return reason_of(error)


def _image_columns(schema: Any) -> list[str]:
    """Returns the columns with images: structs with a field 'bytes', or bytes."""
    import pyarrow as pa

    def is_image(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return [field.name for field in schema if is_image(field.type)]


def _features(schema: Any) -> Mapping[str, Any]:
    """Returns the features of the columns, which `datasets` writes to the metadata of the file."""
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
        raise UserError(f"{where} has no column of images; its columns are {some_of(columns, 3)}.")
    if label is not None and label not in columns:
        raise UserError(
            f"{where} has no column {label!r}{did_you_mean(label, columns)}; its columns are {some_of(columns, 3)}."
        )
    column = label or next((column for column in LABEL_COLUMNS if column in columns), None)
    class_columns = [column for column in columns if _class_names(file.schema_arrow, column)]
    if column is None and len(class_columns) == 1:
        column = class_columns[0]
    if column is None and class_columns:
        raise UserError(
            f"{where} has {len(class_columns)} labels, {some_of(class_columns, 3)}; select one with 'label'."
        )
    if column is None:
        raise UserError(
            f"{where} has no column 'label'; rename the column of the classes, or select it with 'label'. The columns "
            f"are {some_of(columns, 3)}."
        )
    return column


def _subset_of(name: str) -> str:
    """Returns the split from the name or folder of a file: `train-00000-of-00002.parquet`, `train/0000.parquet`."""
    path = PurePosixPath(name)
    words = [re.split(r"[-_.]", path.name)[0], *reversed(path.parent.parts)]
    return next((subset_of(word) for word in words if subset_of(word)), "")
