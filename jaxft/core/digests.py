"""The digests by which jaxft names things: trials, splits, programs, cached features, files."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

DIGITS = 16


def sha256_of(*contents: "str | bytes | ArrayLike") -> str:
    """Returns the 64 hexadecimal digits of the SHA-256 of contents, one after another.

    A text is encoded as UTF-8; bytes of a file's name that are no UTF-8 stay as they are. An array is its values in C
    order, without its shape and type.
    """
    total = hashlib.sha256()
    for content in contents:
        total.update(_bytes_of(content))
    return total.hexdigest()


def short_digest(*contents: "str | bytes | ArrayLike") -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of contents, as in `sha256_of`."""
    return sha256_of(*contents)[:DIGITS]


def json_digest(value: Any) -> str:
    """Returns 16 hexadecimal digits that name a JSON value, whatever the order of the fields in it."""
    return short_digest(json.dumps(value, sort_keys=True, separators=(",", ":")))


def _bytes_of(content: Any) -> Any:
    if isinstance(content, str):
        return content.encode("utf-8", "surrogateescape")
    if isinstance(content, bytes):
        return content
    import numpy as np

    return np.ascontiguousarray(content).reshape(-1).view(np.uint8)
