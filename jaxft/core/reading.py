"""Bounded reads: regular files only, and at most a number of bytes from each, also of what is decompressed.

Each kind of content has a default bound. The option `--max-bytes`, or the environment variable `JAXFT_MAX_BYTES`, which
worker processes inherit, sets one bound for all kinds.
"""

import contextlib
import io
import lzma
import os
import stat
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxft.core.errors import UserError

VARIABLE, OPTION = "JAXFT_MAX_BYTES", "--max-bytes"
# Default bounds in bytes.
FILE_BYTES = 8_000_000_000  # a file as it is on disk: weights and arrays
UNPACKED_BYTES = 1_000_000_000  # content that is decompressed
PICTURE_BYTES = 256_000_000  # an image file; several are read at a time
TEXT_BYTES = 100_000_000  # tables, JSON and lists of names, whose objects need about ten times the memory
MOST_EXPANSION = 20  # size of all files in an archive, as a multiple of its own size, if they exceed `UNPACKED_BYTES`
CHUNK = 1 << 20  # bytes that are decompressed at a time

# The exceptions that damaged content can cause in the libraries that read it.
DAMAGE = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError,
          OSError, RecursionError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error,
          lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, tokenize.TokenError)  # fmt: skip

KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
         (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))  # fmt: skip


class Unreadable(ValueError):
    """Content that is not read; the message is a phrase about it, such as 'it is a named pipe, not a file'."""


def bound(default: int) -> int:
    """Returns the largest number of bytes to read: `$JAXFT_MAX_BYTES`, or if that is not set, `default`.

    Raises:
      UserError: the variable is not a positive number.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return default
    try:
        number = int(float(text))
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise UserError(
            f"{OPTION} ({VARIABLE}) is {text[:40]!r}; it must be the largest number of bytes to read, such as 8e9."
        )
    return number


@contextlib.contextmanager
def bounded(text: str | None) -> Iterator[None]:
    """Sets the bound for the time of the context, also for processes that start in it. If None, changes nothing.

    Raises:
      UserError: `text` is not a positive number.
    """
    if text is None:
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = text
    try:
        bound(0)
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def check_size(num_bytes: int, default: int) -> None:
    """Checks that content of `num_bytes` may be read.

    Args:
      num_bytes: size of the content.
      default: the bound of its kind, if the user sets none.

    Raises:
      Unreadable: it is larger than the bound.
    """
    most = bound(default)
    if num_bytes > most:
        raise Unreadable(f"it has {num_bytes:,} bytes, more than {most:,} ({OPTION} sets the bound)")


def check_expansion(num_bytes: int, file_bytes: int) -> None:
    """Checks that the files in an archive of `file_bytes`, `num_bytes` together, may be decompressed.

    Raises:
      Unreadable: they have more bytes than the bound, and more than 20 times those of the archive.
    """
    most = max(bound(UNPACKED_BYTES), MOST_EXPANSION * file_bytes)
    if num_bytes > most:
        raise Unreadable(
            f"its files have more than {most:,} bytes, far more than the archive ({OPTION} sets the bound)"
        )


def check_regular(path: Path) -> None:
    """Checks that a path is a regular file, and not a folder, a named pipe, a socket or a device.

    Raises:
      OSError: it cannot be accessed.
      Unreadable: it does not exist, or is something else.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise Unreadable("the file does not exist") from None
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS if is_kind(mode)), "something else")
        raise Unreadable(f"it is {kind}, not a regular file")


def check_file(path: Path, default: int = FILE_BYTES) -> None:
    """Checks that a path is a regular file, and of a size that may be read.

    Raises:
      OSError: it cannot be accessed.
      Unreadable: it does not exist, is no regular file, or is larger than the bound.
    """
    check_regular(path)
    check_size(path.stat().st_size, default)


def read_file(path: Path, default: int = FILE_BYTES) -> bytes:
    """Returns the content of a regular file.

    Args:
      path: the file.
      default: the bound of its kind, if the user sets none.

    Raises:
      OSError: the file cannot be read.
      Unreadable: it is no regular file, or larger than the bound.
    """
    check_file(path, default)
    with path.open("rb") as file:
        return file.read(os.fstat(file.fileno()).st_size)


def read_stream(stream: IO[bytes], default: int = UNPACKED_BYTES) -> bytes:
    """Returns the content of a stream to its end, which is read in pieces.

    Args:
      stream: the stream, such as that of a compressed file.
      default: the bound of its kind, if the user sets none.

    Raises:
      Unreadable: the stream has more bytes than the bound.
    """
    most = bound(default)
    content = io.BytesIO()
    while piece := stream.read(CHUNK):
        if content.tell() + len(piece) > most:
            raise Unreadable(f"it has more than {most:,} bytes ({OPTION} sets the bound)")
        content.write(piece)
    return content.getvalue()


def entry_bound(entry: zipfile.ZipInfo, archive_bytes: int) -> int:
    """Returns the default bound of an entry of an archive of `archive_bytes`: at least twice its compressed size."""
    return max(UNPACKED_BYTES, 2 * min(entry.compress_size, archive_bytes))


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, default: int = UNPACKED_BYTES) -> bytes:
    """Returns the content of an entry of a zip archive. Never decompresses much more than the size that it declares.

    Args:
      archive: the archive.
      entry: the entry.
      default: the bound of its kind, if the user sets none.

    Raises:
      Unreadable: the entry is larger than the bound, or has a compression that zipfile cannot decompress in pieces.
      zipfile.BadZipFile, ...: the entry is damaged (`DAMAGE`).
    """
    check_size(entry.file_size, default)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Unreadable("its compression is not deflate")
    with archive.open(entry) as stream:  # `ZipFile.read` would decompress everything at once
        return read_stream(stream, default)


def tar_entries(file: IO[bytes]) -> list[tarfile.TarInfo]:
    """Returns the entries of a plain tar archive, from its start.

    Raises:
      Unreadable: an entry with a negative size leads back to an earlier one, without end.
      tarfile.TarError, ...: the archive is damaged (`DAMAGE`).
    """
    file.seek(0)
    entries: list[tarfile.TarInfo] = []
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (entry := archive.next()) is not None:
            if entry.size < 0 or (entries and entry.offset <= entries[-1].offset):
                raise Unreadable(f"its entry {entry.name[:80]!r} has a damaged size")
            entries.append(entry)
    return entries
