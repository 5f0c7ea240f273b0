"""Levels of factors: keys to compare them, and their positions on an axis."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


def level_key(level: Any) -> str:
    """Returns a text that is equal for equal levels and different for different ones, for levels of any JSON type."""
    return json.dumps(level, sort_keys=True)


def distinct(levels: Sequence[Any]) -> list[Any]:
    """Returns the levels without duplicates, in order of first appearance."""
    return list({level_key(level): level for level in levels}.values())


def is_number(level: Any) -> bool:
    """Returns whether a level is a number; a Boolean is not."""
    return isinstance(level, int | float) and not isinstance(level, bool)


def main_factor(factors: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> str:
    """Returns the factor with the most levels (the first on ties); empty if there are no factors."""
    return max(factors, key=lambda name: len(distinct([s.get(name) for s in settings])), default="")


def other_levels(levels: Mapping[str, Any], factor: str, factors: Sequence[str]) -> list[Any]:
    """Returns the levels of all factors except `factor`."""
    return [levels.get(name) for name in factors if name != factor]


class AxisPositions(NamedTuple):
    """Positions of levels on an axis.

    Attributes:
      position: x coordinate of each level, by its key; the mean distance of neighboring numbers is 1.
      separator: x coordinate of the line between words (left) and numbers (right); None if one of them is missing.
      note: description of the axis for the caption, such as 'on a logarithmic axis'; may be empty.
    """

    position: dict[str, float]
    separator: float | None
    note: str


def axis_positions(levels: Sequence[Any]) -> AxisPositions:
    """Returns the positions of `levels`: words at the left, then the numbers in increasing order.

    The axis of the numbers is logarithmic if they are positive and span more than a factor of ten. If the smallest gap
    is less than a quarter of the mean gap, the numbers are evenly spaced instead.
    """
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
