"""Files of a folder, or of a zip or tar archive: their names, and functions that read them.

Archives are not extracted, and the file names inside an archive never become paths on disk.
"""

import contextlib
import errno
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from jaxft.core.cache import cache_dir
from jaxft.core.errors import UserError

Member = tuple[PurePosixPath, Callable[[], bytes]]

MAX_FILE_BYTES = 1 << 29  # of one image file, so that a small zip archive cannot fill the memory
MIN_FREE_BYTES = 1 << 30  # that remain on the disk when a compressed tar archive is decompressed


def is_archive(path: Path) -> bool:
    """Returns whether the content of a file is a zip or tar archive."""
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error):  # a compressed file that is not an archive
        return False


def members_of(path: Path) -> list[Member]:
    """Returns the files of the folder or archive `path`. An archive stays open as long as the result exists.

    Raises:
      UserError: `path` is not a folder or archive, or cannot be read.
    """
    try:
        if path.is_dir():
            return list(_folder_members(path, PurePosixPath(), frozenset()))
        if zipfile.is_zipfile(path):
            return _zip_members(path)
        return _tar_members(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                f"{str(path)!r} cannot be decompressed: less than 1 GiB would remain free at {str(cache_dir())!r}; "
                "free disk space there, or set $JAXFT_CACHE to another folder."
            ) from None
        kind = "a folder" if path.is_dir() else "a zip archive" if zipfile.is_zipfile(path) else "a tar archive"
        raise UserError(f"{str(path)!r} cannot be read as {kind}: {' '.join(str(error).split())}.") from None


def _folder_members(folder: Path, name: PurePosixPath, above: frozenset[str]) -> Iterator[Member]:
    """Yields the files below a folder. Links to folders are followed, except links to a parent folder."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir():
            yield from _folder_members(folder / entry.name, name / entry.name, above | {real})
        elif entry.is_file() or entry.is_symlink():  # reading a broken link gives an error with its name
            yield name / entry.name, partial(read_file, Path(entry.path))


def read_file(path: Path) -> bytes:
    """Returns the content of a file.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file does not exist, or has more than `MAX_FILE_BYTES` bytes.
    """
    if not path.is_file():
        raise ValueError("the file does not exist")
    _check_size(path.stat().st_size)
    return path.read_bytes()


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise ValueError(f"the file has {num_bytes:,} bytes; at most {MAX_FILE_BYTES:,} are allowed")


def _zip_members(path: Path) -> list[Member]:
    archive = zipfile.ZipFile(path)

    def read(info: zipfile.ZipInfo) -> bytes:
        _check_size(info.file_size)
        return archive.read(info)

    # If a name occurs several times, the last file counts, as in extraction.
    files = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    return [(PurePosixPath(name), partial(read, info)) for name, info in files.items()]


def _tar_members(path: Path) -> list[Member]:
    """Returns the regular files of a tar archive. A compressed archive is decompressed to an unnamed file."""
    try:
        plain = _SharedFile(path.open("rb"))
        infos = _index(plain)
    except tarfile.ReadError:
        with tarfile.open(path) as archive:  # detects the compression, or fails if this is not an archive
            plain = _SharedFile(_decompress(archive))
        infos = _index(plain)
    files = {info.name: info for info in infos if info.isreg() and not info.issparse()}
    return [
        (PurePosixPath(name.removeprefix("./")), partial(plain.read, info.offset_data, info.size))
        for name, info in files.items()
    ]


def _index(plain: "_SharedFile") -> list[tarfile.TarInfo]:
    plain.file.seek(0)
    with tarfile.open(fileobj=plain.file, mode="r:") as archive:
        return archive.getmembers()


def _decompress(archive: tarfile.TarFile) -> IO[bytes]:
    """Returns the content of a compressed archive as an unnamed file, which the system deletes when it is closed."""
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
        while chunk := archive.fileobj.read(1 << 20):
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

    def read(self, offset: int, size: int) -> bytes:
        """Returns `size` bytes that start at `offset`.

        Raises:
          ValueError: `size` exceeds `MAX_FILE_BYTES`, or the file is shorter.
        """
        _check_size(size)
        content = os.pread(self.file.fileno(), size, offset)
        if len(content) < size:
            raise ValueError("the archive ends inside the file")
        return content

    def __del__(self) -> None:
        self.file.close()
