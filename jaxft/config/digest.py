"""Digests that name trials and analyses. A digest is the same in every process."""

from collections.abc import Mapping
from typing import Any

from jaxft.core.digests import json_digest

# Part of every digest. Raise it when a default changes, or when the same fields give a different result.
SCHEMA_VERSION = 6


def digest(identity: Mapping[str, Any]) -> str:
    """Returns the digest of `identity`, a JSON value: 16 hexadecimal digits, the same in every process."""
    return json_digest({"schema": SCHEMA_VERSION, **identity})
