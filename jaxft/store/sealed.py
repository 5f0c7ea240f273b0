"""JSON records with a digest of their name and content, so that a damaged record is never used."""

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.core.digests import json_digest
from jaxft.core.errors import UserError

DAMAGED = ".damaged"  # suffix of a damaged file that a study has set aside
SEAL = "sealed"  # the field of a record with its digests


class DamagedFile(UserError):
    """A file of a work directory is damaged or missing. A study sets it aside and repeats its work."""

    def __init__(self, path: Path):
        super().__init__(
            f"the file {str(path)!r} is damaged or missing; run the command of the study again, which keeps damaged "
            f"files as *{DAMAGED} and repeats their work."
        )
        self.path = path


def seal(name: str, record: Mapping[str, Any], arrays_sha256: str = "") -> bytes:
    """Returns a record as JSON, with a digest of its name, its content and `arrays_sha256`.

    Args:
      name: name of the file in the work directory, such as 'trials/0123456789abcdef.json'.
      record: the record, a JSON value.
      arrays_sha256: sha256 of the file with the arrays of the record; empty without such a file.

    Raises:
      ValueError: the record contains nan or infinity, which JSON cannot store.
    """
    content = json.loads(json.dumps(record, allow_nan=False))
    sealed = {"arrays_sha256": arrays_sha256, "digest": _digest_of(name, content, arrays_sha256)}
    return (json.dumps(content | {SEAL: sealed}, indent=1) + "\n").encode()


def unseal(name: str, content: bytes) -> tuple[dict[str, Any], str] | None:
    """Returns (record, sha256 of its arrays) from the bytes of a sealed record, or None if they are damaged."""
    try:
        record = json.loads(content)
        sealed = record.pop(SEAL)
        arrays_sha256 = sealed["arrays_sha256"]
        is_whole = sealed["digest"] == _digest_of(name, record, arrays_sha256)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (record, arrays_sha256) if is_whole else None


def content_of(path: Path) -> bytes | None:
    """Returns the bytes of a file, or None if it does not exist. A file that the disk cannot read is empty."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EISDIR):
            raise
        return b""


def _digest_of(name: str, record: Mapping[str, Any], arrays_sha256: str) -> str:
    return json_digest([name, record, arrays_sha256])
