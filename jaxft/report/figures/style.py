"""The style of all figures: fonts, lines and sizes, equal on all machines."""

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from jaxft.core.events import Warned, print_warnings
from jaxft.report.colors import HAIR, INK, MUTED

MISSING_GLYPH = "Glyph .* missing from font"
FONT, FONT_PT = "DejaVu Sans", 9.5  # matplotlib contains this font, so figures are equal on all machines

STYLE = {
    "font.family": FONT,
    "font.size": FONT_PT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelsize": FONT_PT,
    "grid.color": HAIR,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": FONT_PT - 0.5,
    "legend.title_fontsize": FONT_PT - 0.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "jaxft",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Sets the style of the pages for matplotlib, independent of the settings of the user."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", MISSING_GLYPH)  # `saved` reports them
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def saved(figure: Figure, **options: Any) -> bytes:
    """Returns the bytes of a figure, drawn inside `style`; `options` are those of `Figure.savefig`.

    Letters that the font lacks, such as Chinese ones, are drawn by the browser in an SVG file, and as boxes in a PNG
    file; one warning per process reports this.
    """
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", MISSING_GLYPH)
            figure.savefig(buffer, **options)
    except UserWarning:
        _warn_once()
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.fonttype": "none"}):  # text, not outlines
            figure.savefig(buffer, **options)
    return buffer.getvalue()


@functools.cache
def _warn_once() -> None:
    print_warnings(
        Warned(f"the font of the figures, {FONT}, lacks some letters of the names; browsers draw them in another font.")
    )


def text_inches(text: str, size_pt: float = FONT_PT) -> float:
    """Returns the width of a line of text in the font of the figures, in inches."""
    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), text, prop=FontProperties(family=FONT, size=size_pt)).get_extents().width) / 72
