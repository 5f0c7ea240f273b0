"""Figures of the page of `jaxft finetune`: curves of the candidates and of retraining, and embedded images."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from PIL import Image

from jaxft.report.colors import arm_colors
from jaxft.report.figures.axes import TICK_STEPS, side_by_side
from jaxft.report.figures.curves import Curve, limits
from jaxft.report.figures.style import style
from jaxft.report.figures.svg import to_svg

DOT_HEIGHT, DOT_WIDTH = 0.06, 0.03  # of the y axis and of the x axis
LOSSLESS_PX = 96  # up to this size, JPEG artifacts would be visible and PNG files are small


def selection_curves(name: str, candidates: Sequence[Mapping[str, Any]], colors: Sequence[str]) -> Markup | None:
    """Returns a figure of the validation accuracy of each candidate by epoch; None if no value is finite.

    The axis starts a little below the lowest final accuracy, because the first epochs do not show which candidate is
    best. A linear head, fitted to all images at once, is a dot at epoch 0.
    """
    curves = [as_curve(candidate["curves"], "val_accuracy") for candidate in candidates]
    ends = [100 * curve.mean[-1] for curve in curves if len(curve.mean) and np.isfinite(curve.mean[-1])]
    if not ends:
        return None
    low, high = limits(curves, 100.0) or (0.0, 100.0)
    view = max(low, min(ends) - 2 * (max(ends) - min(ends)) - 5), min(high, 101)
    lines = [(curve, color, c["selected"]) for curve, color, c in zip(curves, colors, candidates)]
    description = f"Validation accuracy of the candidates{' by epoch' if has_epochs(candidates) else ''}"
    return draw_curves(name, description, lines, 100.0, "accuracy, %", view)


def has_epochs(candidates: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether any candidate was trained for epochs; otherwise, all candidates are linear heads."""
    return any(len(candidate["curves"]["epoch"]) > 1 for candidate in candidates)


def refit_curves(name: str, refits: Sequence[Mapping[str, Any]], delivered_seed: int) -> Markup | None:
    """Returns a figure of the training loss of each seed by epoch; None without finite values or a second epoch."""
    curves = [as_curve(refit, "train_loss") for refit in refits]
    view = limits(curves, 1.0)
    if view is None or all(len(curve.epoch) == 1 for curve in curves):
        return None
    colors = arm_colors(len(refits))
    lines = [(curve, c, refit["seed"] == delivered_seed) for curve, c, refit in zip(curves, colors, refits)]
    return draw_curves(name, "Training loss of the retrained candidate by epoch", lines, 1.0, "loss", view)


def as_curve(curves: Mapping[str, Any], name: str) -> Curve:
    """Returns the curve `name` of a record; values of None, after divergence, are NaN."""
    values = np.array(curves[name], dtype=np.float64)
    return Curve(np.array(curves["epoch"], dtype=np.float64), values, np.zeros_like(values))


@style()
def draw_curves(
    name: str,
    description: str,
    lines: Sequence[tuple[Curve, str, bool]],
    factor: float,
    label: str,
    view: tuple[float, float],
) -> Markup:
    """Returns a figure of several curves.

    Args:
      name: prefix of the ids in the figure.
      description: description for screen readers.
      lines: (curve, color, whether it is bold and in front) of each line.
      factor: factor by which all values are multiplied.
      label: label of the y axis.
      view: limits of the y axis; it is logarithmic if they are positive and differ by more than a factor of ten.
    """
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    last = max(float(curve.epoch.max(initial=0)) for curve, _, _ in lines)
    for curve, color, bold in lines:
        if len(curve.epoch) > 1:
            width, front = (2.0, 3) if bold else (1.3, 2)
            axes.plot(curve.epoch, factor * curve.mean, color=color, linewidth=width, zorder=front)
    dots = [(factor * float(curve.mean[0]), color, bold) for curve, color, bold in lines if len(curve.epoch) == 1]
    _draw_dots(axes, dots, last, view)
    axes.set_ylabel(label)
    if last:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=TICK_STEPS))
    else:
        axes.set_xlabel("linear heads")
        axes.set_xticks([])
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=TICK_STEPS))
    if view[0] > 0 and view[1] > 10 * view[0]:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    axes.set_ylim(*view)
    return to_svg(figure, name, description)


def _draw_dots(axes: Axes, dots: Sequence[tuple[float, str, bool]], last: float, view: tuple[float, float]) -> None:
    """Draws the dots of linear heads at epoch 0, side by side if they are close, and sets the limits of the x axis.

    Args:
      axes: the axes.
      dots: (value, color, whether it is large and in front) of each dot.
      last: the last epoch of the x axis; 0 if there are only dots.
      view: limits of the y axis.
    """
    dots = [dot for dot in dots if np.isfinite(dot[0])]
    columns = side_by_side([value for value, _, _ in dots], DOT_HEIGHT * (view[1] - view[0]))
    step = DOT_WIDTH * (last or 1.0)
    for (value, color, bold), column in zip(dots, columns):
        size, front = (8, 5) if bold else (6, 4)
        (dot,) = axes.plot(
            step * column, value, "o", color=color, markersize=size, markeredgecolor="white", zorder=front
        )
        dot.set_clip_on(False)
    margin = step * (max(map(abs, columns)) + 0.8) if columns else 0.0
    axes.set_xlim(*(-margin, last) if last else (-0.5, 0.5))


def data_uri(image: np.ndarray) -> str:
    """Returns an image, [h, w, 3] uint8, as a data URI: PNG up to 96 px, JPEG above."""
    buffer = io.BytesIO()
    form = "png" if max(image.shape[:2]) <= LOSSLESS_PX else "jpeg"
    Image.fromarray(image).save(buffer, form, **({"quality": 85} if form == "jpeg" else {}))
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"
