"""Axes: where they are placed, their ticks, and the line of chance."""

from typing import Any

from matplotlib.figure import Figure

from jaxft.report.colors import INK

TICK_STEPS = (1, 2, 5, 10)


def draw_chance(axes: Any, chance: float | None) -> None:
    low, high = axes.get_ylim()
    if chance is not None and low <= 100 * chance <= high:
        axes.axhline(100 * chance, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set_ylim(low, high)


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Any:
    """Returns axes at a place given in inches from the figure's upper left corner."""
    whole = figure.get_size_inches()
    return figure.add_axes((left / whole[0], 1 - (top + height) / whole[1], width / whole[0], height / whole[1]))
