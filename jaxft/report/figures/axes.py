"""Axes: positions, ticks, and the line at chance."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxft.report.colors import INK

TICK_STEPS = (1, 2, 5, 10)


def draw_chance(axes: Axes, chance: float | None) -> None:
    """Draws a line at `chance`, in [0, 1], if the accuracy axis in percent includes it."""
    low, high = axes.get_ylim()
    if chance is not None and low <= 100 * chance <= high:
        axes.axhline(100 * chance, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set_ylim(low, high)


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
    axes.set_ylim(max(low, -2), min(high, 102))  # an interval over few seeds can exceed 100 %
    draw_chance(axes, chance)
