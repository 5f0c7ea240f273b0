"""Atomic file writes, and plain messages for system errors."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from jaxft.core.errors import UserError

TEMPORARY = ".tmp-"
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def write_once(path: Path, content: bytes) -> bool:
    """Writes a new file atomically. Returns False, and keeps the file, if `path` exists already."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        _sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            if path.exists():
                return False
            temporary.rename(path)
        _sync(path.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to. At the end of the context, it atomically replaces `path`."""
    temporary = _temporary(path)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors writes a new file with mode 0600
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_new(path: Path, force: bool) -> None:
    """Checks that a file that the user names does not exist yet.

    Args:
      path: the file.
      force: whether the file may be replaced.

    Raises:
      UserError: the file exists, and `force` is false.
    """
    if path.exists() and not force:
        raise UserError(f"the file {str(path)!r} exists; name another one, or replace it with --force.")


@contextlib.contextmanager
def replacing_files(path: Path) -> Iterator[Path]:
    """Yields a path named like `path` in a temporary folder, for weights of one or several files, or a folder.

    At the end of the context, everything in the temporary folder is moved next to `path`, and `path` is replaced last.
    """
    folder = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    folder.mkdir()
    mode = folder.stat().st_mode & 0o666  # that of the umask; safetensors writes a new file with mode 0600
    try:
        yield folder / path.name
        for item in sorted(folder.iterdir(), key=lambda item: item.name == path.name):
            for file in item.rglob("*") if item.is_dir() else [item]:
                if file.is_file():
                    file.chmod(mode)
                    _sync(file)
            target = path.parent / item.name
            if target.is_dir():
                target.rename(folder / "replaced")
            item.replace(target)
        _sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def explained_os_errors(path: Path) -> Iterator[None]:
    """Raises a `UserError` for system errors that a user can fix: a full or read-only disk, or one without locks."""
    try:
        yield
    except Exception as error:
        number = _system_error(error)
        if number in NO_SPACE:
            raise UserError(
                f"no space is left on the device of {str(path)!r}; free some space and run the same command again, "
                "which continues with the finished work."
            ) from error
        if number in NO_LOCKS:
            raise UserError(
                f"the file system of {str(path)!r} does not support locks (flock), which processes need to share a "
                "work directory; use a folder on another file system."
            ) from error
        if number in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise UserError(f"cannot write to {str(path)!r}: {os.strerror(number).lower()}.") from error
        raise


def _system_error(error: Exception) -> int | None:
    """Returns the errno of `error`, or the errno in a message of safetensors or TensorStore; None without one."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error (\d+)\)|os_error_code='(\d+)'", str(error))
    return int(match[1] or match[2]) if match else None


def _temporary(path: Path) -> Path:
    """Creates an empty file next to `path`, with the mode that the umask of the process gives, and returns its path."""
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}"
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
