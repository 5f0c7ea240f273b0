"""Figures of activations: similarity of taps, features of images, saliency maps and filters."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from jaxft.analysis.embedding import Embeddings
from jaxft.analysis.filter_images import FilterImages
from jaxft.report.colors import INK, arm_colors
from jaxft.report.figures.axes import axes_at
from jaxft.report.figures.style import style, text_inches
from jaxft.report.figures.svg import to_svg

MARKERS = "osD^vPX*"  # so that classes differ in gray, too
SIMILARITY_MAP = "Greys"
SALIENCY_MAP = "magma"
GAP_PX = 1  # between filters


@style()
def similarity_map(name: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray, axes_of: str) -> Markup:
    """Returns a map of the similarity of taps, with the value in each cell; white is 0 and black is 1.

    Args:
      name: prefix of the ids in the figure.
      rows: taps of the first network.
      columns: taps of the second network.
      values: [rows, columns].
      axes_of: the names of both networks, for screen readers.
    """
    cell = 0.46
    left = max(map(text_inches, rows)) + 0.45
    top = max(map(text_inches, columns)) + 0.4
    figure = Figure(figsize=(left + cell * len(columns) + 0.1, top + cell * len(rows) + 0.1))
    axes = axes_at(figure, left, top, cell * len(columns), cell * len(rows))
    axes.imshow(values, cmap=SIMILARITY_MAP, vmin=0, vmax=1, interpolation="none", aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.55 else INK, size=8)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return to_svg(figure, name, f"linear CKA of the activations of {axes_of}")


@style()
def feature_map(name: str, embeddings: Embeddings, classes: Sequence[str], headings: tuple[str, str]) -> Markup:
    """Returns two scatter plots of the features of images, before and after training, on the same scales.

    Args:
      name: prefix of the ids in the figure.
      embeddings: the coordinates of n images, [n, 2].
      classes: [n], the class of each image.
      headings: the titles of the plots.
    """
    names = sorted(set(classes))
    width = 3.1
    right = max((text_inches(label) for label in names), default=0) + 0.45
    figure = Figure(figsize=(2 * width + 0.9 + right, width + 0.85))
    limit = 1.05 * max(np.abs(side).max() for side in embeddings)
    for i, (points, heading) in enumerate(zip(embeddings, headings)):
        axes = axes_at(figure, 0.55 + i * (width + 0.3), 0.35, width, width)
        for k, (label, color) in enumerate(zip(names, arm_colors(len(names)))):
            of_class = points[np.array(classes) == label]
            marker = MARKERS[k % len(MARKERS)]
            axes.plot(*of_class.T, marker, color=color, markersize=3, markeredgewidth=0, alpha=0.7, label=label)
        axes.set_title(heading, loc="left", size=9.5)
        axes.set_xlim(-limit, limit)
        axes.set_ylim(-limit, limit)
        axes.set_xlabel("first component")
        axes.grid(False)
        if i:
            axes.set_yticklabels([])
            if len(names) <= 24:
                axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handletextpad=0.2, markerscale=1.8)
        else:
            axes.set_ylabel("second component")
    return to_svg(figure, name, f"features of the images: {headings[0]}, {headings[1]}")


def saliency_image(values: np.ndarray) -> np.ndarray:
    """Returns a saliency map [h, w], from 0 to 1, as an image [h, w, 3] uint8; larger values are lighter."""
    colors = matplotlib.colormaps[SALIENCY_MAP](np.clip(values, 0, 1))[..., :3]
    return np.asarray(255 * colors + 0.5).astype(np.uint8)


def filter_sheet(images: FilterImages, count: int = 24) -> np.ndarray:
    """Returns an image [h, w, 3] uint8 of filters: a column for each filter, and rows before, after and difference.

    Args:
      images: the filters.
      count: the number of filters that are shown: those that changed most.
    """
    change = np.abs(images.after - images.before).sum((1, 2, 3)) * images.weight_scales
    chosen = np.sort(np.argsort(-change, kind="stable")[:count])
    rows = [np.pad(part[chosen], ((0, 0), (0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=1) for part in images[:3]]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])[:-GAP_PX, :-GAP_PX]
    return np.asarray(255 * np.clip(sheet, 0, 1) + 0.5).astype(np.uint8)
