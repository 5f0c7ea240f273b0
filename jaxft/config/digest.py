"""Digests that name a trial or an analysis, the same in every process."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = 5  # part of every digest: raised when a default changes, or the same fields mean another result


def digest(identity: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that name what `identity` says, the same in every process and version."""
    text = json.dumps({"schema": SCHEMA_VERSION, **identity}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
