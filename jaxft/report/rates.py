"""The figure of the learning-rate range test (Smith 2017)."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from jaxft.report.colors import HUES, UNCHANGED
from jaxft.report.figures.style import FONT_PT, saved, style

DPI = 160


@style()
def draw_range_test(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggested: float,
    steepest: float,
    title: str,
) -> bytes:
    """Returns a PNG of the loss against the learning rate, with the suggested rate marked.

    Args:
      rates: learning rate of each step.
      losses: training loss of each step.
      smoothed: smoothed training loss of each step.
      suggested: suggested learning rate.
      steepest: learning rate at which the smoothed loss falls fastest.
      title: title of the figure.

    Reference:
      Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.plot(rates, losses, color=UNCHANGED, linewidth=1.0, label="loss of each batch")
    axes.plot(rates, smoothed, color=HUES[0], linewidth=1.8, label="smoothed")
    for rate, hue, name in ((suggested, HUES[1], "suggested"), (steepest, HUES[2], "steepest fall")):
        axes.axvline(rate, color=hue, linewidth=1.2, linestyle="--", label=f"{name}: {rate:.2g}")
    axes.set_xscale("log")
    axes.set_xlim(rates[0], rates[-1])
    axes.set_ylim(0, 1.25 * max(smoothed))
    axes.xaxis.set_major_locator(LogLocator(numticks=10))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.set_xlabel("learning rate of the head")
    axes.set_ylabel("training loss")
    axes.set_title(title, loc="left", fontsize=FONT_PT)
    axes.legend(loc="upper left")
    return saved(figure, format="png", dpi=DPI, metadata={"Software": None})
