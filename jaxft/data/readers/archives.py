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
from typing import IO, NamedTuple

from jaxft.core.cache import cache_dir
from jaxft.core.errors import UserError

Member = tuple[PurePosixPath, Callable[[], bytes]]


class Contents(NamedTuple):
    """The files of a folder or archive, and its folders: of a folder on disk, only the empty ones."""

    members: list[Member]
    folders: list[PurePosixPath]


ZIP_UTF8 = 0x800  # flag of a file whose name is UTF-8
MAX_FILE_BYTES = 1 << 29  # of one image file, so that a small zip archive cannot fill the memory
MIN_FREE_BYTES = 1 << 30  # that remain on the disk when a compressed tar archive is decompressed


def is_archive(path: Path) -> bool:
    """Returns whether the content of a file is a zip or tar archive."""
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error):  # a compressed file that is not an archive
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
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                f"{str(path)!r} cannot be decompressed: less than 1 GiB would remain free at {str(cache_dir())!r}; "
                "free disk space there, or set $JAXFT_CACHE to another folder."
            ) from None
        kind = "a folder" if path.is_dir() else "a zip archive" if zipfile.is_zipfile(path) else "a tar archive"
        raise UserError(f"{str(path)!r} cannot be read as {kind}: {' '.join(str(error).split())}.") from None


def printable(name: str) -> str:
    """Returns a file name in which bytes that are not UTF-8 are written as escapes, such as `\\xff`."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def _folder_contents(path: Path) -> Contents:
    empty: list[PurePosixPath] = []
    return Contents(list(_folder_members(path, PurePosixPath(), frozenset(), empty)), empty)


def _folder_members(
    folder: Path, name: PurePosixPath, above: frozenset[str], empty: list[PurePosixPath]
) -> Iterator[Member]:
    """Yields the files below a folder, and adds empty folders to `empty`.

    Links to folders are followed, except links to a parent folder.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    if not ordered:
        empty.append(name)
    for entry in ordered:
        inner_name = name / printable(entry.name)
        if entry.is_dir():
            yield from _folder_members(folder / entry.name, inner_name, above | {real}, empty)
        elif entry.is_file() or entry.is_symlink():  # reading a broken link gives an error with its name
            yield inner_name, partial(read_file, Path(entry.path))


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


def _zip_contents(path: Path) -> Contents:
    archive = zipfile.ZipFile(path)

    def read(info: zipfile.ZipInfo) -> bytes:
        _check_size(info.file_size)
        return archive.read(info)

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
        with tarfile.open(path) as archive:  # detects the compression, or fails if this is not an archive
            plain = _SharedFile(_decompress(archive))
        infos = _index(plain)
    files = {info.name: info for info in infos if info.isreg() and not info.issparse()}
    return Contents(
        [(_tar_name(name), partial(plain.read, info.offset_data, info.size)) for name, info in files.items()],
        [_tar_name(info.name) for info in infos if info.isdir()],
    )


def _tar_name(name: str) -> PurePosixPath:
    return PurePosixPath(printable(name.removeprefix("./")))


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
