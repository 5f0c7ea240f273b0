"""Axes: where they are placed, their ticks, and the line of chance."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxft.report.colors import INK

TICK_STEPS = (1, 2, 5, 10)


def draw_chance(axes: Axes, chance: float | None) -> None:
    """Draws the line of chance on an axis of accuracies in percent, where it is in sight."""
    low, high = axes.get_ylim()
    if chance is not None and low <= 100 * chance <= high:
        axes.axhline(100 * chance, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set_ylim(low, high)


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Returns axes at a place given in inches from the figure's upper left corner."""
    whole = figure.get_size_inches()
    return figure.add_axes((left / whole[0], 1 - (top + height) / whole[1], width / whole[0], height / whole[1]))


def draw_accuracy_axis(axes: Axes, chance: float | None) -> None:
    """Labels the y axis of test accuracies in percent, cuts it to what is possible, and draws the line of chance."""
    axes.set_ylabel("test accuracy, %")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=TICK_STEPS))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))  # intervals over few seeds can reach beyond what is possible
    draw_chance(axes, chance)
