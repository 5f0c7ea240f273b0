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
    """A quantity by epoch: its mean over seeds and half the width of the interval, [epochs] each."""

    epoch: np.ndarray
    mean: np.ndarray
    half_width: np.ndarray


@style()
def learning_curves(
    name: str,
    settings: Sequence[Setting],
    curves: Mapping[int, tuple[Curve, Curve]],
    chosen: int | None,
    chance: float | None,
) -> list[Markup]:
    """Returns a picture a setting, all on the same axes: validation accuracy above, training loss below.

    `curves` holds (accuracy, loss) by setting number; those of the setting `chosen` are behind all others.
    """
    accuracies, losses = ([pair[i] for pair in curves.values()] for i in (0, 1))
    accuracy_limits, loss_limits = limits(accuracies, 100.0), limits(losses, 1.0)
    logarithmic = loss_limits is not None and loss_limits[0] > 0 and loss_limits[1] > 10 * loss_limits[0]
    last = max((float(curve.epoch[-1]) for curve in accuracies if len(curve.epoch)), default=0.0) or 1.0
    pictures = []
    for setting in settings:
        figure = Figure(figsize=(2.3, 2.9), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for axes, which, factor in ((above, 0, 100.0), (below, 1, 1.0)):
            if chosen is not None and chosen != setting.number and chosen in curves:
                behind = curves[chosen][which]
                axes.plot(behind.epoch, factor * behind.mean, color="#b9bcc2", linewidth=1.1)
            if setting.number in curves:
                curve = curves[setting.number][which]
                low, high = (factor * (curve.mean + sign * curve.half_width) for sign in (-1, 1))
                axes.fill_between(curve.epoch, low, high, color=setting.color, alpha=0.18, linewidth=0)
                dot = "o" if len(curve.epoch) == 1 else None  # a line of one point is not seen
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
        what = f"Validation accuracy and training loss by epoch, setting {setting.number}"
        pictures.append(to_svg(figure, f"{name}-{setting.number}", what))
    return pictures


def limits(curves: Sequence[Curve], factor: float) -> tuple[float, float] | None:
    """Returns the limits that hold all mean curves, and a little more; None where there is no number."""
    values = np.concatenate([np.zeros(0), *(factor * curve.mean for curve in curves)])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 10 * low:
        return low / 1.3, high * 1.3
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin
