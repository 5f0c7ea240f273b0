"""The confusion matrix: a colored table, or a figure if there are many classes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxft.report.colors import INK
from jaxft.report.figures.axes import TICK_STEPS, axes_at
from jaxft.report.figures.style import style
from jaxft.report.figures.svg import to_svg

MAX_CELLS = 120  # per side of the figure

CORRECT, WRONG, EMPTY = "#0b5c8a", "#d55e00", "#f4f5f2"


class Cell(NamedTuple):
    """A cell of the matrix: the number of images, the color of the cell, and the color of the number."""

    num_images: int
    color: str
    ink: str


def colored_matrix(confusion: Sequence[Sequence[int]]) -> list[list[Cell]]:
    """Returns the cells of a confusion matrix: correct predictions in blue and wrong ones in orange.

    Darker colors are larger shares of the row. `confusion` is [true class, predicted class].
    """
    rows = []
    for i, row in enumerate(confusion):
        total = max(sum(row), 1)
        cells = []
        for j, count in enumerate(row):
            depth = (
                count / total if i == j else math.sqrt(count / total)
            )  # the root makes small numbers of errors visible
            color = shade(CORRECT if i == j else WRONG, depth)
            cells.append(Cell(count, to_hex(color), "#ffffff" if luminance(color) < 0.22 else INK))
        rows.append(cells)
    return rows


def shade(hue: str, depth: float) -> np.ndarray:
    """Returns a color [3] between that of empty cells (`depth` 0) and `hue` (`depth` 1), in [0, 1]."""
    return np.asarray(to_rgb(EMPTY)) * (1 - depth) + np.asarray(to_rgb(hue)) * depth


def luminance(color: np.ndarray) -> float:
    """Returns the relative luminance of a color [3] in sRGB, in [0, 1] (WCAG 2)."""
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def classes_per_cell(num_classes: int) -> int:
    """Returns the number of consecutive classes that share a row and a column of the figure."""
    return math.ceil(num_classes / MAX_CELLS)


@style()
def coarse_matrix(name: str, confusion: np.ndarray) -> Markup:
    """Returns a figure of the confusion matrix without class names.

    `confusion` is [true class, predicted class] int. Neighboring classes share a cell if there are more than 120.
    """
    n, step = len(confusion), classes_per_cell(len(confusion))
    blocks = np.add.reduceat(np.add.reduceat(confusion, range(0, n, step), axis=0), range(0, n, step), axis=1)
    share = blocks / np.maximum(blocks.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(blocks), dtype=bool)
    worst = max(share[~diagonal].max(), 0.1)
    depth = np.where(diagonal, share, np.sqrt(share / worst))[..., None]
    hue = np.where(diagonal[..., None], to_rgb(CORRECT), to_rgb(WRONG))
    figure = Figure(figsize=(4.9, 4.7))
    axes = axes_at(figure, 0.6, 0.05, 4.1, 4.1)
    side = len(blocks) * step
    colors = to_rgb(EMPTY) * (1 - depth) + hue * depth
    axes.imshow(colors, interpolation="none", extent=(0, side, side, 0))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for axis, label in ((axes.xaxis, "predicted class (number)"), (axes.yaxis, "true class (number)")):
        axis.set_major_locator(MaxNLocator(6, integer=True, steps=TICK_STEPS))
        axis.set_label_text(label)
    return to_svg(figure, name, "Confusion matrix of all classes")
