"""Files that appear whole or not at all, and what a system's error means to a person."""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxft.core.errors import UserError

TEMPORARY = ".tmp-"
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def write_once(path: Path, content: bytes) -> bool:
    """Makes the file `path` with `content`, whole or not at all; returns False where it was there already."""
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
    """Yields a temporary path to write to, which then takes the place of `path` at once."""
    temporary = _temporary(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def explained_os_errors(path: Path) -> Iterator[None]:
    """Turns a full or write-protected disk, or one without locks, into a `UserError` of one sentence."""
    try:
        yield
    except Exception as error:
        number = _system_error(error)
        if number in NO_SPACE:
            raise UserError(
                f"no space is left on the device of {str(path)!r}; what was finished is kept: "
                "free some space and run the same command again."
            ) from error
        if number in NO_LOCKS:
            raise UserError(
                f"the file system of {str(path)!r} has no locks (flock), by which processes share a work directory; "
                "name a folder on another one."
            ) from error
        if number in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise UserError(f"cannot write to {str(path)!r}: {os.strerror(number).lower()}.") from error
        raise


def _system_error(error: Exception) -> int | None:
    """Returns the number of the system's error that `error` is or, from safetensors and TensorStore, tells of."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error (\d+)\)|os_error_code='(\d+)'", str(error))
    return int(match[1] or match[2]) if match else None


def _temporary(path: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o644)
    return temporary


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
