"""Files of a folder, or of a zip or tar archive: their names, and functions that read them.

Archives are not extracted, and the file names inside an archive never become paths on disk.
"""

import collections
import contextlib
import errno
import os
import shutil
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Protocol

from jaxft.core.cache import cache_dir
from jaxft.core.errors import UserError
from jaxft.core.reading import (
    CHUNK,
    DAMAGE,
    PICTURE_BYTES,
    Unreadable,
    check_expansion,
    check_regular,
    check_size,
    read_entry,
    read_file,
    tar_entries,
)
from jaxft.data.readers.attempts import reason_of


class ReadBytes(Protocol):
    """A function that returns the content of a file.

    `default` is the bound of its kind in bytes, if the user sets none (`jaxft.core.reading`).
    """

    def __call__(self, default: int = PICTURE_BYTES) -> bytes:
        """Returns the content."""


Member = tuple[PurePosixPath, ReadBytes]


class Contents(NamedTuple):
    """The files of a folder or archive, and its folders: of a folder on disk, only the empty ones."""

    members: list[Member]
    folders: list[PurePosixPath]


ZIP_UTF8 = 0x800  # flag of a file whose name is UTF-8
MOST_VISITS = 100  # of a folder that several links lead to
MIN_FREE_BYTES = 1 << 30  # that remain on the disk when a compressed tar archive is decompressed


def is_archive(path: Path) -> bool:
    """Returns whether the content of a regular file is a zip or tar archive."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            return zipfile.is_zipfile(file) or (file.seek(0) == 0 and tarfile.is_tarfile(file))
    except DAMAGE:  # a compressed file that is not an archive
        return False


def members_of(path: Path) -> list[Member]:
    """Returns the files of the folder or archive `path`, as `contents_of` does."""
    return contents_of(path).members


def contents_of(path: Path) -> Contents:
    """Returns the files and folders of the folder or archive `path`.

    An archive stays open as long as the result exists. In names, bytes that are not UTF-8 become escapes (`\\xff`).

    Raises:
      UserError: `path` is not a folder or archive, or cannot be read.
    """
    try:
        if path.is_dir():
            return _folder_contents(path)
        if zipfile.is_zipfile(path):
            return _zip_contents(path)
        return _tar_contents(path)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                f"{str(path)!r} cannot be decompressed: less than 1 GiB would remain free at {str(cache_dir())!r}; "
                "free disk space there, or set $JAXFT_CACHE to another folder."
            ) from None
        kind = "a folder" if path.is_dir() else "a zip archive" if zipfile.is_zipfile(path) else "a tar archive"
        raise UserError(f"{str(path)!r} cannot be read as {kind}: {reason_of(error)}.") from None


def printable(name: str) -> str:
    """Returns a file name in which bytes that are not UTF-8 are written as escapes, such as `\\xff`."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def _folder_contents(path: Path) -> Contents:
    empty: list[PurePosixPath] = []
    return Contents(list(_folder_members(path, PurePosixPath(), frozenset(), empty, collections.Counter())), empty)


def _folder_members(
    folder: Path,
    name: PurePosixPath,
    above: frozenset[tuple[int, int]],
    empty: list[PurePosixPath],
    visits: "collections.Counter[tuple[int, int]]",
) -> Iterator[Member]:
    """Yields the files below a folder, adds empty folders to `empty`, and counts folders in `visits`.

    Links to folders are followed, except links to a parent folder.

    Raises:
      Unreadable: links lead to the same folder again and again.
    """
    status = folder.stat()
    real = (status.st_dev, status.st_ino)
    if real in above:
        return
    visits[real] += 1
    if visits[real] > MOST_VISITS:
        raise Unreadable(f"more than {MOST_VISITS} links lead to its folder {str(name)!r}")
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    if not ordered:
        empty.append(name)
    for entry in ordered:
        inner_name = name / printable(entry.name)
        if entry.is_dir():
            yield from _folder_members(folder / entry.name, inner_name, above | {real}, empty, visits)
        else:  # reading a broken link or a named pipe gives an error with its name
            yield inner_name, partial(read_on_disk, Path(entry.path))


def read_on_disk(path: Path, default: int = PICTURE_BYTES) -> bytes:
    """Returns the content of a file on disk, which is an image file by default; see `jaxft.core.reading.read_file`."""
    return read_file(path, default)


def _zip_contents(path: Path) -> Contents:
    archive = zipfile.ZipFile(path)
    with contextlib.ExitStack() as on_error:
        on_error.callback(archive.close)
        check_expansion(sum(info.file_size for info in archive.infolist()), path.stat().st_size)
        on_error.pop_all()

    def read(info: zipfile.ZipInfo, default: int = PICTURE_BYTES) -> bytes:
        return read_entry(archive, info, default)

    # If a name occurs several times, the last file counts, as in extraction.
    infos = {_zip_name(info): info for info in archive.infolist()}
    return Contents(
        [(PurePosixPath(name), partial(read, info)) for name, info in infos.items() if not name.endswith("/")],
        [PurePosixPath(name) for name in infos if name.endswith("/")],
    )


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Returns the name of a file, with `/` between folders, also if a program for Windows wrote `\\`.

    Some programs write UTF-8 without declaring it; zipfile reads such names as code page 437.
    """
    name = info.filename
    if not info.flag_bits & ZIP_UTF8:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")


def _tar_contents(path: Path) -> Contents:
    """Returns the regular files and the folders of a tar archive.

    A compressed archive is decompressed to an unnamed file.
    """
    try:
        plain = _SharedFile(path.open("rb"))
        infos = _index(plain)
    except tarfile.ReadError:
        # Detects the compression, or fails if this is not an archive.
        with path.open("rb") as file, tarfile.open(fileobj=file) as archive:
            plain = _SharedFile(_decompress(archive, path.stat().st_size))
        infos = _index(plain)
    files = {info.name: info for info in infos if info.isreg() and not info.issparse()}
    return Contents(
        [(_tar_name(name), partial(plain.read, info.offset_data, info.size)) for name, info in files.items()],
        [_tar_name(info.name) for info in infos if info.isdir()],
    )


def _tar_name(name: str) -> PurePosixPath:
    return PurePosixPath(printable(name.removeprefix("./")))


def _index(plain: "_SharedFile") -> list[tarfile.TarInfo]:
    with contextlib.ExitStack() as on_error:
        on_error.callback(plain.file.close)
        entries = tar_entries(plain.file)
        on_error.pop_all()
    return entries


def _decompress(archive: tarfile.TarFile, num_bytes: int) -> IO[bytes]:
    """Returns the content of a compressed archive of `num_bytes` as an unnamed file, which is deleted when closed."""
    folder: Path | None = cache_dir()
    with contextlib.suppress(OSError):
        cache_dir().mkdir(parents=True, exist_ok=True)
    if not os.access(cache_dir(), os.W_OK):
        folder = None
    assert archive.fileobj is not None
    archive.fileobj.seek(0)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - returned open
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        while chunk := archive.fileobj.read(CHUNK):
            check_expansion(file.tell() + len(chunk), num_bytes)
            if shutil.disk_usage(folder or tempfile.gettempdir()).free < MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.write(chunk)
        file.flush()
        stack.pop_all()
    return file


class _SharedFile:
    """An open file that several threads read. It is closed when the last reference to it disappears."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        weakref.finalize(self, file.close)

    def read(self, offset: int, size: int, default: int = PICTURE_BYTES) -> bytes:
        """Returns `size` bytes that start at `offset`.

        Raises:
          ValueError: `size` exceeds the bound of its kind (`default` if the user sets none), or the file is shorter.
        """
        check_size(size, default)
        content = os.pread(self.file.fileno(), size, offset)
        if len(content) < size:
            raise ValueError("the archive ends inside the file")
        return content
