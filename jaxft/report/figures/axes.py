"""Axes: positions, ticks, intervals, dots side by side, and the line at chance."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxft.analysis.statistics import Interval
from jaxft.core.text import share_bounds
from jaxft.report.colors import INK

TICK_STEPS = (1, 2, 5, 10)


def draw_chance(axes: Axes, chance: float | None) -> None:
    """Draws a line at `chance`, in [0, 1], if the accuracy axis in percent includes it."""
    low, high = axes.get_ylim()
    if chance is not None and low <= 100 * chance <= high:
        axes.axhline(100 * chance, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set_ylim(low, high)


def whisker(interval: Interval) -> list[list[float]] | None:
    """Returns the lengths of the error bar of an accuracy in percent, [[below], [above]]; None without an interval.

    The bar ends at 0 and 100 %.
    """
    if math.isnan(interval.half_width):
        return None
    low, high = share_bounds(interval.mean, interval.half_width)
    return [[100 * (interval.mean - low)], [100 * (high - interval.mean)]]


def side_by_side(values: Sequence[float], distance: float) -> list[int]:
    """Returns a column for each dot, 0, 1, -1, 2, ..., so that dots of a column are at least `distance` apart."""
    placed: dict[int, list[float]] = {}
    columns = []
    for value in values:
        column = next(
            column
            for column in ((i + 1) // 2 * (1 if i % 2 else -1) for i in range(len(values)))
            if all(abs(value - other) >= distance for other in placed.get(column, ()))
        )
        placed.setdefault(column, []).append(value)
        columns.append(column)
    return columns


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Returns new axes at a given position.

    Args:
      figure: the figure.
      left: distance of the axes from the left edge of the figure, in inches.
      top: distance of the axes from the top edge of the figure, in inches.
      width: width of the axes, in inches.
      height: height of the axes, in inches.
    """
    full_width, full_height = figure.get_size_inches()
    position = (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
    return figure.add_axes(position)


def draw_accuracy_axis(axes: Axes, chance: float | None) -> None:
    """Labels the y axis of test accuracy in percent, limits it to 0 to 100 %, and draws the line at chance."""
    axes.set_ylabel("test accuracy, %")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=TICK_STEPS))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))
    draw_chance(axes, chance)
