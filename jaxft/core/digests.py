"""Digests that name trials, splits, programs, cached features and files."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

DIGITS = 16


def sha256_of(*contents: "str | bytes | ArrayLike") -> str:
    """Returns the SHA-256 of the concatenated contents: 64 hexadecimal digits.

    A string is encoded as UTF-8; bytes of a file name that are not UTF-8 are kept. An array of any shape contributes
    its values in C order, without its shape and dtype.
    """
    total = hashlib.sha256()
    for content in contents:
        total.update(_bytes_of(content))
    return total.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of the bytes of a file: 64 hexadecimal digits. A large file needs little memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_digest(*contents: "str | bytes | ArrayLike") -> str:
    """Returns the first 16 hexadecimal digits of `sha256_of`, for strings, bytes and arrays of any shape."""
    return sha256_of(*contents)[:DIGITS]


def json_digest(value: Any) -> str:
    """Returns a digest of a JSON value: 16 hexadecimal digits, independent of the order of fields."""
    return short_digest(json.dumps(value, sort_keys=True, separators=(",", ":")))


def _bytes_of(content: Any) -> Any:
    if isinstance(content, str):
        return content.encode("utf-8", "surrogateescape")
    if isinstance(content, bytes):
        return content
    import numpy as np

    return np.ascontiguousarray(content).reshape(-1).view(np.uint8)
