"""The confusion matrix, in colored cells or, of many classes, as a figure."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxft.report.colors import INK
from jaxft.report.figures.axes import TICK_STEPS, axes_at
from jaxft.report.figures.style import style
from jaxft.report.figures.svg import to_svg

MOST_CELLS = 120  # of a side of a matrix without names

RIGHT, WRONG, NOTHING = "#0b5c8a", "#d55e00", "#f4f5f2"


class Cell(NamedTuple):
    """A cell of the matrix: how many images, and the colors of the cell and of its number."""

    num_images: int
    color: str
    ink: str


def matrix_of(record: Mapping[str, Any]) -> list[list[Cell]]:
    """Returns the confusion matrix in colors: blue what is right, orange what is wrong, by the share of the row."""
    rows = []
    for i, row in enumerate(record["confusion"]):
        total = max(sum(row), 1)
        cells = []
        for j, count in enumerate(row):
            depth = count / total if i == j else math.sqrt(count / total)  # few wrong ones are to be seen, too
            color = shade(RIGHT if i == j else WRONG, depth)
            cells.append(Cell(count, to_hex(color), "#ffffff" if luminance(color) < 0.22 else INK))
        rows.append(cells)
    return rows


def shade(hue: str, depth: float) -> np.ndarray:
    """Returns `hue` mixed with the color of nothing: `depth` 1 is all of it, and 0 none."""
    return np.asarray(to_rgb(NOTHING)) * (1 - depth) + np.asarray(to_rgb(hue)) * depth


def luminance(color: np.ndarray) -> float:
    """Returns the relative luminance of a color in sRGB (WCAG 2)."""
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def classes_in_a_cell(num_classes: int) -> int:
    """Returns how many classes, in their order, share a row and a column of the matrix without names."""
    return math.ceil(num_classes / MOST_CELLS)


@style()
def coarse_matrix(name: str, confusion: np.ndarray) -> Markup:
    """Returns a picture of the confusion matrix, [classes, classes] int, in which so many have no names."""
    n, step = len(confusion), classes_in_a_cell(len(confusion))
    blocks = np.add.reduceat(np.add.reduceat(confusion, range(0, n, step), axis=0), range(0, n, step), axis=1)
    share = blocks / np.maximum(blocks.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(blocks), dtype=bool)
    worst = max(share[~diagonal].max(), 0.1)
    depth = np.where(diagonal, share, np.sqrt(share / worst))[..., None]
    hue = np.where(diagonal[..., None], to_rgb(RIGHT), to_rgb(WRONG))
    figure = Figure(figsize=(4.9, 4.7))
    axes = axes_at(figure, 0.6, 0.05, 4.1, 4.1)
    side = len(blocks) * step
    colors = to_rgb(NOTHING) * (1 - depth) + hue * depth
    axes.imshow(colors, interpolation="none", extent=(0, side, side, 0))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for axis, label in ((axes.xaxis, "predicted class, by its number"), (axes.yaxis, "true class")):
        axis.set_major_locator(MaxNLocator(6, integer=True, steps=TICK_STEPS))
        axis.set_label_text(label)
    return to_svg(figure, name, "Confusion matrix of all classes")
