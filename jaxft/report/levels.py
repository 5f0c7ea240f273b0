"""Levels of factors: what tells them apart, which are numbers, and where they stand on an axis."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


def level_key(level: Any) -> str:
    """Returns a text that tells levels apart, whatever they are."""
    return json.dumps(level, sort_keys=True)


def distinct(levels: Sequence[Any]) -> list[Any]:
    """Returns the levels, each once, in the order in which they appear."""
    return list({level_key(level): level for level in levels}.values())


def is_number(level: Any) -> bool:
    """Tells whether a level has a place on an axis of numbers."""
    return isinstance(level, int | float) and not isinstance(level, bool)


def main_factor(factors: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> str:
    """Returns the factor with most levels, the first of them; an empty text where there are no factors."""
    return max(factors, key=lambda name: len(distinct([s.get(name) for s in settings])), default="")


def other_levels(levels: Mapping[str, Any], factor: str, factors: Sequence[str]) -> list[Any]:
    return [levels.get(name) for name in factors if name != factor]


class AxisPositions(NamedTuple):
    """Where levels stand on the axis, by key, about one unit apart; words stand left of `apart`."""

    position: dict[str, float]
    apart: float | None
    note: str


def axis_positions(levels: Sequence[Any]) -> AxisPositions:
    """Returns where `levels` stand: numbers in order, by logarithm beyond a decade; words at the left."""
    numbers = sorted(level for level in levels if is_number(level))
    words = [level for level in levels if not is_number(level)]
    at = np.asarray(numbers, dtype=np.float64)
    note = ""
    if len(at) > 1:
        if at[0] > 0 and at[-1] > 10 * at[0]:
            at, note = np.log10(at), "on a logarithmic axis"
        gaps = np.diff(at)
        if gaps.min() < gaps.mean() / 4:
            at, note = np.arange(len(at), dtype=np.float64), "evenly spaced"
        at = (at - at[0]) / np.diff(at).mean()
    gap = 1.3 if numbers and words else 1.0
    position = {level_key(word): i - len(words) + 1 - gap for i, word in enumerate(words)}
    position |= {level_key(number): float(x) for number, x in zip(numbers, at - at[0] if len(at) else at)}
    return AxisPositions(position, -gap / 2 if numbers and words else None, note)
