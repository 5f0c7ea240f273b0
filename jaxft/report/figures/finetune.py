"""Figures of the page of `jaxft finetune`: curves of the candidates and of retraining, and embedded images."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from PIL import Image

from jaxft.report.colors import arm_colors
from jaxft.report.figures.axes import TICK_STEPS
from jaxft.report.figures.curves import Curve, limits
from jaxft.report.figures.style import style
from jaxft.report.figures.svg import to_svg

LOSSLESS_PX = 96  # up to this size, JPEG artifacts would be visible and PNG files are small


def selection_curves(name: str, candidates: Sequence[Mapping[str, Any]], colors: Sequence[str]) -> Markup | None:
    """Returns a figure of the validation accuracy of each candidate by epoch; None if no value is finite.

    The axis starts a little below the lowest final accuracy, because the first epochs do not show which candidate is
    best. A linear probe, fitted to all images at once, is a point at epoch 0.
    """
    curves = [as_curve(candidate["curves"], "val_accuracy") for candidate in candidates]
    ends = [100 * curve.mean[-1] for curve in curves if len(curve.mean) and np.isfinite(curve.mean[-1])]
    if not ends:
        return None
    low, high = limits(curves, 100.0) or (0.0, 100.0)
    view = max(low, min(ends) - 2 * (max(ends) - min(ends)) - 5), min(high, 101)
    lines = [(curve, color, c["selected"]) for curve, color, c in zip(curves, colors, candidates)]
    return draw_curves(name, "Validation accuracy of the candidates by epoch", lines, 100.0, "accuracy, %", view)


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
    for curve, color, bold in lines:
        dot = "o" if len(curve.epoch) == 1 else None  # a line with one point is invisible
        width, front = (2.0, 3) if bold else (1.3, 2)
        (line,) = axes.plot(curve.epoch, factor * curve.mean, marker=dot, color=color, linewidth=width, zorder=front)
        line.set_clip_on(dot is None)  # otherwise, half of the dot at epoch 0 is cut off
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_xlim(0, max(1.0, *(float(curve.epoch.max(initial=0)) for curve, _, _ in lines)))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=TICK_STEPS))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=TICK_STEPS))
    if view[0] > 0 and view[1] > 10 * view[0]:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    axes.set_ylim(*view)
    return to_svg(figure, name, description)


def data_uri(image: np.ndarray) -> str:
    """Returns an image, [h, w, 3] uint8, as a data URI: PNG up to 96 px, JPEG above."""
    buffer = io.BytesIO()
    form = "png" if max(image.shape[:2]) <= LOSSLESS_PX else "jpeg"
    Image.fromarray(image).save(buffer, form, **({"quality": 85} if form == "jpeg" else {}))
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"
