"""Image files that a table names: also with backslashes between folders, or without the suffix of the file."""

import os
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from jaxft.core.reading import PICTURE_BYTES
from jaxft.data.readers.archives import ReadBytes, read_on_disk
from jaxft.data.readers.file_names import is_picture
from jaxft.data.readers.files import Files


class NamedFiles(Protocol):
    """The files that a table can name."""

    def candidates(self, name: str) -> list[str]:
        """Returns the names of the existing files that `name` may stand for: several only if its suffix is missing."""

    def read(self, name: str) -> ReadBytes:
        """Returns the function that reads a file. It raises a ValueError if the file does not exist."""


class ListedFiles:
    """The files of a folder or archive, as `NamedFiles`."""

    def __init__(self, files: Files):
        self.files = files

    def candidates(self, name: str) -> list[str]:
        """See `NamedFiles`."""
        existing = [spelling for spelling in (name, with_slashes(name)) if spelling in self.files]
        return existing[:1] or self._by_stem.get(with_slashes(name), [])

    def read(self, name: str) -> ReadBytes:
        """See `NamedFiles`."""
        return self.files.get(name, _missing)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _by_stem(self.files)


class DiskFiles:
    """The files below and next to a folder, as `NamedFiles`. Names are relative to the folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._by_folder: dict[PurePosixPath, dict[str, list[str]]] = {}

    def candidates(self, name: str) -> list[str]:
        """See `NamedFiles`."""
        existing = [spelling for spelling in (name, with_slashes(name)) if _is_kind(self._path(spelling).is_file)]
        if existing:
            return existing[:1]
        stem = PurePosixPath(with_slashes(name))
        if stem.parent not in self._by_folder:
            folder = self._path(str(stem.parent))
            names = [path.name for path in folder.iterdir()] if _is_kind(folder.is_dir) else []
            self._by_folder[stem.parent] = _by_stem(str(stem.parent / name) for name in names)
        return self._by_folder[stem.parent].get(str(stem), [])

    def read(self, name: str) -> ReadBytes:
        """See `NamedFiles`."""
        return partial(read_on_disk, self._path(name))

    def _path(self, name: str) -> Path:
        return Path(os.path.normpath(self.folder / name))


def with_slashes(name: str) -> str:
    """Returns a name with slashes in place of backslashes."""
    return name.replace("\\", "/")


def _is_kind(is_kind: Callable[[], bool]) -> bool:
    """Returns the result of a check of a path, or False if the system refuses the path, such as a name too long."""
    try:
        return is_kind()
    except OSError:
        return False


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns the image files by their names without suffix."""
    by_stem: dict[str, list[str]] = {}
    for name in names:
        if is_picture(PurePosixPath(name)):
            by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    return by_stem


def _missing(default: int = PICTURE_BYTES) -> bytes:
    raise ValueError("the file does not exist")
