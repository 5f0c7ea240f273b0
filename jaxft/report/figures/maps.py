"""Heat maps: parameter change by layer, distances between runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.colors import LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from jaxft.core.text import shortened
from jaxft.report.colors import MAP, UNCHANGED
from jaxft.report.figures.axes import axes_at
from jaxft.report.figures.style import FONT_PT, style, text_inches
from jaxft.report.figures.svg import to_svg
from jaxft.report.settings import Setting

MAX_NAMED_LAYERS = 60


class Scale(NamedTuple):
    """Texts of a map: the title of its scale, the meaning of zero, and a description for screen readers."""

    label: str
    zero: str
    description: str


class Column(NamedTuple):
    """A column of a map: its heading and its color."""

    heading: str
    color: str


def setting_columns(settings: Sequence[Setting]) -> list[Column]:
    """Returns a column for each setting, headed by its number and label."""
    return [Column(f"{setting.number}   {setting.label}", setting.color) for setting in settings]


@style()
def change_map(name: str, columns: Sequence[Column], layers: Sequence[str], values: np.ndarray, scale: Scale) -> Markup:
    """Returns a heat map of a measure of parameter change by layer (rows) and setting or network (columns).

    Args:
      name: prefix of the ids in the figure.
      columns: the columns.
      layers: names of the layers, from the input to the head.
      values: [layers, columns] float64; zero for an unchanged layer, NaN without a measurement.
      scale: texts of the map.
    """
    step = 1 if len(layers) <= MAX_NAMED_LAYERS else 2
    row, width = (0.19 if step == 1 else 0.095), (0.42 if len(columns) <= 14 else 0.24)
    headings = [shortened(c.heading, 56) for c in columns]
    names = [shortened(layer, 40) for layer in layers]
    box = (len(columns) * width, len(layers) * row)
    left, top = max(map(text_inches, names)) + 0.2, max(map(text_inches, headings)) + 0.35
    figure = Figure(figsize=(left + max(box[0], 1.0) + 1.15, top + max(box[1], 1.6) + 0.45))
    axes = axes_at(figure, left, top, *box)
    image = _draw_map(axes, values)
    axes.set_yticks(range(0, len(layers), step), names[::step])
    axes.set_xticks(range(len(columns)), headings, rotation=90)
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", pad=9)
    for i, column in enumerate(columns):
        _strip(axes, i / len(columns), 1 + 0.03 / box[1], 1 / len(columns), 0.07 / box[1], column.color)
    _draw_scale(figure, image, left + box[0] + 0.25, top, max(box[1], 1.6), scale.label)
    _draw_key(figure, left, top + max(box[1], 1.6) + 0.16, scale.zero)
    return to_svg(figure, name, scale.description)


@style()
def distance_map(
    name: str, settings: Sequence[Setting], setting_of_run: Sequence[int], distances: np.ndarray
) -> Markup:
    """Returns a heat map of the distances between all pairs of runs.

    Args:
      name: prefix of the ids in the figure.
      settings: the settings.
      setting_of_run: index in `settings` of each run, in increasing order.
      distances: [runs, runs] float64.
    """
    side = min(6.4, max(2.4, 0.3 * len(setting_of_run)))
    cell = side / len(setting_of_run)
    left, top = 0.85, 0.7
    figure = Figure(figsize=(left + side + 1.15, top + side + 0.45))
    axes = axes_at(figure, left, top, side, side)
    image = _draw_map(axes, distances)
    middles, present = [], sorted(set(setting_of_run))
    for index in present:
        first, count = list(setting_of_run).index(index), list(setting_of_run).count(index)
        middles.append(first + (count - 1) / 2)
        color = settings[index].color
        _strip(axes, first * cell / side, 1 + 0.03 / side, count * cell / side, 0.09 / side, color)
        _strip(axes, -0.12 / side, 1 - (first + count) * cell / side, 0.09 / side, count * cell / side, color)
        if first:
            axes.axhline(first - 0.5, color="white", linewidth=1.6)
            axes.axvline(first - 0.5, color="white", linewidth=1.6)
    numbers = [str(settings[index].number) for index in present]
    axes.set_xticks(middles, numbers)
    axes.set_yticks(middles, numbers)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(pad=11, labelsize=FONT_PT if side / len(present) > 0.2 else FONT_PT - 3)
    axes.set_xlabel("setting", labelpad=7)
    axes.set_ylabel("setting", labelpad=7)
    _draw_scale(figure, image, left + side + 0.25, top, side, "L2 distance over the backbone")
    _draw_key(figure, left, top + side + 0.16, "identical weights")
    return to_svg(figure, name, "Distances between the final weights of all pairs of runs")


def _draw_map(axes: Any, values: np.ndarray) -> Any:
    """Draws a matrix [rows, columns] and returns its color scale. Zeros are gray and NaN is blank.

    The scale is logarithmic if the positive values span more than a factor of ten and no value is negative.
    """
    if np.nanmin(values, initial=0) < 0:
        return _draw_image(axes, values, values, Normalize(np.nanmin(values), np.nanmax(values)))
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if len(positive) else (0.0, 1.0)
    norm = LogNorm(max(low, high * 1e-6), high) if high > 10 * low > 0 else Normalize(low if high > low else 0, high)
    return _draw_image(axes, values, np.where(values > 0, values, high), norm)


def _draw_image(axes: Any, values: np.ndarray, shown: np.ndarray, norm: Normalize) -> Any:
    colors = matplotlib.colormaps[MAP].resampled(64)(norm(np.ma.masked_invalid(shown)))
    colors[values == 0] = (*to_rgb(UNCHANGED), 1.0)
    colors[~np.isfinite(values)] = 0.0
    axes.imshow(colors, aspect="auto", interpolation="none")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return matplotlib.cm.ScalarMappable(norm, matplotlib.colormaps[MAP].resampled(64))


def _draw_scale(figure: Figure, image: Any, left: float, top: float, height: float, label: str) -> None:
    axes = axes_at(figure, left, top, 0.14, min(height, 3.2))
    bar = figure.colorbar(image, cax=axes)
    bar.outline.set_visible(False)
    bar.set_label(label)
    axes.grid(False)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(length=2, width=0.7)


def _draw_key(figure: Figure, left: float, top: float, label: str) -> None:
    axes = axes_at(figure, left, top, 0.16, 0.16)
    axes.set_facecolor(UNCHANGED)
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.text(1.5, 0.5, label, transform=axes.transAxes, va="center")


def _strip(axes: Any, x: float, y: float, width: float, height: float, color: str) -> None:
    axes.add_patch(
        Rectangle(
            (x, y),
            width,
            height,
            transform=axes.transAxes,
            clip_on=False,
            facecolor=color,
            edgecolor="white",
            linewidth=1.0,
        )
    )
