"""Values that JSON can hold."""

import math
from typing import Any


def finite_or_none(value: Any) -> float | None:
    """Returns a number as a float, or None if it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None
