"""Learning curves."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from jaxft.report.colors import MUTED
from jaxft.report.figures.axes import TICK_STEPS, draw_chance
from jaxft.report.figures.style import style
from jaxft.report.figures.svg import to_svg
from jaxft.report.settings import Setting


class Curve(NamedTuple):
    """A quantity by epoch: the epochs, the mean over seeds, and the half-width of its interval, each [epochs]."""

    epoch: np.ndarray
    mean: np.ndarray
    half_width: np.ndarray


@style()
def learning_curves(
    name: str,
    settings: Sequence[Setting],
    curves: Mapping[int, tuple[Curve, Curve]],
    selected: int | None,
    chance: float | None,
) -> list[Markup]:
    """Returns one figure per setting, all with the same axes: validation accuracy above training loss.

    Args:
      name: prefix of the ids in the figures.
      settings: the settings to draw.
      curves: (validation accuracy, training loss) of each setting that has curves, by its number.
      selected: number of the setting whose curves are drawn in gray behind all others; optional.
      chance: accuracy of random guessing, in [0, 1]; None if unknown.
    """
    accuracies, losses = ([pair[i] for pair in curves.values()] for i in (0, 1))
    accuracy_limits, loss_limits = limits(accuracies, 100.0), limits(losses, 1.0)
    logarithmic = loss_limits is not None and loss_limits[0] > 0 and loss_limits[1] > 10 * loss_limits[0]
    last = max((float(curve.epoch[-1]) for curve in accuracies if len(curve.epoch)), default=0.0) or 1.0
    figures = []
    for setting in settings:
        figure = Figure(figsize=(2.3, 2.9), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for axes, index, factor in ((above, 0, 100.0), (below, 1, 1.0)):
            if selected is not None and selected != setting.number and selected in curves:
                behind = curves[selected][index]
                axes.plot(behind.epoch, factor * behind.mean, color="#b9bcc2", linewidth=1.1)
            if setting.number in curves:
                curve = curves[setting.number][index]
                low, high = (factor * (curve.mean + sign * curve.half_width) for sign in (-1, 1))
                if index == 0:
                    low, high = np.clip((low, high), 0, 100)
                axes.fill_between(curve.epoch, low, high, color=setting.color, alpha=0.18, linewidth=0)
                dot = "o" if len(curve.epoch) == 1 else None  # a line with one point is invisible
                axes.plot(curve.epoch, factor * curve.mean, marker=dot, color=setting.color, linewidth=1.7)
            else:
                axes.text(0.5, 0.5, "no finished trial", transform=axes.transAxes, ha="center", color=MUTED)
        above.set_ylabel("val. accuracy, %")
        below.set_ylabel("training loss")
        below.set_xlabel("epoch")
        below.set_xlim(0, last)
        below.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=TICK_STEPS))
        above.yaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS))
        if accuracy_limits:
            above.set_ylim(*accuracy_limits)
        if logarithmic:
            below.set_yscale("log")
            below.yaxis.set_major_locator(LogLocator(numticks=5))
            below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            below.minorticks_off()
        else:
            below.yaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS))
        if loss_limits:
            below.set_ylim(*loss_limits)
        draw_chance(above, chance)
        figure.align_ylabels()
        description = f"Validation accuracy and training loss by epoch, setting {setting.number}"
        figures.append(to_svg(figure, f"{name}-{setting.number}", description))
    return figures


def limits(curves: Sequence[Curve], factor: float) -> tuple[float, float] | None:
    """Returns axis limits that include `factor` times all mean curves, with a margin; None if no value is finite."""
    values = np.concatenate([np.zeros(0), *(factor * curve.mean for curve in curves)])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 10 * low:
        return low / 1.3, high * 1.3
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin
