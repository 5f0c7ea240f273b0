"""Figures as inline SVG, with reproducible bytes and unique ids.

The browser shrinks a figure to at least the fraction `MIN_SCALE` of its size; on a narrower screen, the figure scrolls.
"""

import re

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from jaxft.core import interrupts
from jaxft.report.figures.style import saved

MIN_SCALE = 0.75


def to_svg(figure: Figure, name: str, description: str) -> Markup:
    """Returns a figure as an SVG element. Its ids begin with `name`; `description` is for screen readers."""
    interrupts.check()
    text = saved(figure, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))).decode()
    width, height = (float(size) for size in re.search(r'viewBox="0 0 (\S+) (\S+)"', text).groups())  # type: ignore[union-attr]
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    # The style sheet of matplotlib would apply to the whole page. The SVG element below sets its only rule.
    body = re.sub(r"<(metadata|style)[^>]*>.*?</\1>|<!--.*?-->", "", body, flags=re.DOTALL)
    used_ids = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used_ids else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r' d="[^"]+"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), body)
    body = re.sub(r">\s+<", ">\n<", body)
    px = width * 96 / 72
    least = min(px, max(290, MIN_SCALE * px))
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}" '
        f'style="width:{px:.0f}px;max-width:100%;min-width:{least:.0f}px;stroke-linejoin:round">'
        f"{body.strip()}</svg>"
    )
