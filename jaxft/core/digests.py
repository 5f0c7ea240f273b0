"""The digest by which jaxft names things: trials, splits, programs, cached features."""

import hashlib

DIGITS = 16


def short_digest(content: str | bytes) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of `content`; a text is encoded as UTF-8."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:DIGITS]
