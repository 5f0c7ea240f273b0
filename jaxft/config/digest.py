"""Digests that name a trial or an analysis, the same in every process."""

from collections.abc import Mapping
from typing import Any

from jaxft.core.digests import json_digest

SCHEMA_VERSION = 5  # part of every digest: raised when a default changes, or the same fields mean another result


def digest(identity: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that name what `identity` says, the same in every process and version."""
    return json_digest({"schema": SCHEMA_VERSION, **identity})
