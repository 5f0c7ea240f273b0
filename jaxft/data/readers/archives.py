"""The files below a folder, or in a zip or tar archive: names, and how to read each. Nothing is extracted.

A name is only ever a name: what an archive calls its files reaches no path on disk.
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

MAX_FILE_BYTES = 1 << 29  # of one picture's file, so that a few bytes of a zip cannot fill the memory
LEFT_BYTES = 1 << 30  # of the disk, when a compressed tar archive is inflated


def is_archive(path: Path) -> bool:
    """Tells whether a file is a zip or a tar archive, by its content."""
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error):  # of a compressed file that is no archive
        return False


def members_of(path: Path) -> list[Member]:
    """Returns the files below the folder `path`, or in the archive, which is open for as long as they are kept.

    Raises a `UserError` where it is neither, or cannot be read.
    """
    try:
        if path.is_dir():
            return list(_folder_members(path, PurePosixPath(), frozenset()))
        if zipfile.is_zipfile(path):
            return _zip_members(path)
        return _tar_members(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(f"{str(path)!r} cannot be inflated: no space is left at {str(cache_dir())!r}.") from None
        kind = "a folder" if path.is_dir() else "a zip archive" if zipfile.is_zipfile(path) else "a tar archive"
        raise UserError(f"{str(path)!r} cannot be read as {kind}: {' '.join(str(error).split())}.") from None


def _folder_members(folder: Path, name: PurePosixPath, above: frozenset[str]) -> Iterator[Member]:
    """Yields the files below a folder; links to folders are followed, but for those that lead back up."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir():
            yield from _folder_members(folder / entry.name, name / entry.name, above | {real})
        elif entry.is_file() or entry.is_symlink():  # a link to nowhere is named when it is read
            yield name / entry.name, partial(read_file, Path(entry.path))


def read_file(path: Path) -> bytes:
    """Returns a file's content; raises an OSError, or a ValueError where it is too large for a picture."""
    if not path.is_file():
        raise ValueError("there is no such file")
    _check_size(path.stat().st_size)
    return path.read_bytes()


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise ValueError(f"its {num_bytes:,} bytes are more than {MAX_FILE_BYTES:,}")


def _zip_members(path: Path) -> list[Member]:
    archive = zipfile.ZipFile(path)

    def read(info: zipfile.ZipInfo) -> bytes:
        _check_size(info.file_size)
        return archive.read(info)

    # Of files of one name the last counts, as where they are extracted.
    files = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    return [(PurePosixPath(name), partial(read, info)) for name, info in files.items()]


def _tar_members(path: Path) -> list[Member]:
    """Returns the regular files of a tar archive, which is inflated to an unnamed file where it is compressed."""
    try:
        plain = _Bytes(path.open("rb"))
        infos = _index(plain)
    except tarfile.ReadError:
        with tarfile.open(path) as archive:  # finds the compression, or says that it is no archive
            plain = _Bytes(_inflate(archive))
        infos = _index(plain)
    files = {info.name: info for info in infos if info.isreg() and not info.issparse()}
    return [
        (PurePosixPath(name.removeprefix("./")), partial(plain.read, info.offset_data, info.size))
        for name, info in files.items()
    ]


def _index(plain: "_Bytes") -> list[tarfile.TarInfo]:
    plain.file.seek(0)
    with tarfile.open(fileobj=plain.file, mode="r:") as archive:
        return archive.getmembers()


def _inflate(archive: tarfile.TarFile) -> IO[bytes]:
    """Returns the content of a compressed archive in a file that has no name and ends with its last reader."""
    folder: Path | None = cache_dir()
    with contextlib.suppress(OSError):
        cache_dir().mkdir(parents=True, exist_ok=True)
    if not os.access(cache_dir(), os.W_OK):
        folder = None
    assert archive.fileobj is not None
    archive.fileobj.seek(0)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it outlives this function
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        while piece := archive.fileobj.read(1 << 20):
            if shutil.disk_usage(folder or tempfile.gettempdir()).free < LEFT_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.write(piece)
        file.flush()
        stack.pop_all()
    return file


class _Bytes:
    """An open file that several threads read, closed when nobody refers to it any more."""

    def __init__(self, file: IO[bytes]):
        self.file = file

    def read(self, offset: int, size: int) -> bytes:
        """Returns `size` bytes from `offset` on."""
        _check_size(size)
        content = os.pread(self.file.fileno(), size, offset)
        if len(content) < size:
            raise ValueError("the archive ends within it")
        return content

    def __del__(self) -> None:
        self.file.close()
