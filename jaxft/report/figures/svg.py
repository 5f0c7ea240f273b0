"""A figure as inline SVG: the same bytes for the same records, and no id twice on a page.

A figure has a size in CSS pixels and is shrunk to `SHRINK` of it at most; a narrower screen scrolls."""

import io
import re

from markupsafe import Markup, escape
from matplotlib.figure import Figure

SHRINK = 0.75


def to_svg(figure: Figure, name: str, description: str) -> Markup:
    """Returns a figure as an SVG element whose ids begin with `name`; unused ids are dropped."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue().decode()
    width, height = (float(part) for part in re.search(r'viewBox="0 0 (\S+) (\S+)"', text).groups())  # type: ignore[union-attr]
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    # matplotlib's style sheet would reach the whole page; its one rule is inherited from the element below.
    body = re.sub(r"<(metadata|style)[^>]*>.*?</\1>|<!--.*?-->", "", body, flags=re.DOTALL)
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r' d="[^"]+"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), body)
    body = re.sub(r">\s+<", ">\n<", body)
    px = width * 96 / 72
    least = min(px, max(290, SHRINK * px))
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}" '
        f'style="width:{px:.0f}px;max-width:100%;min-width:{least:.0f}px;stroke-linejoin:round">'
        f"{body.strip()}</svg>"
    )
