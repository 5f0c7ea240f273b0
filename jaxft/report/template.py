"""Templates of the pages, and the filters that format values in them."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jaxft.core import interrupts
from jaxft.core.labels import label
from jaxft.core.text import as_text, duration, escaped, number, p_value, percent, percent_interval, plural, points


def render_template(name: str, **values: Any) -> str:
    """Returns the template `name` of this folder filled with `values`; in HTML templates, values are escaped."""
    pieces = []
    for piece in environment().get_template(name).generate(values):
        interrupts.check()
        pieces.append(piece)
    return "".join(pieces)


def render_fragment(name: str, **values: Any) -> Markup:
    """Returns the template `name` filled with `values`, as HTML that other templates do not escape again."""
    return Markup(render_template(name, **values))


@functools.cache
def environment() -> jinja2.Environment:
    """Returns the Jinja environment of this folder, with the filters that format numbers."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=printable,
    )
    templates.globals |= {"chip": chip, "plural": plural}
    templates.filters |= {
        "percent": percent,
        "interval": percent_interval,
        "points": points,
        "p_value": p_value,
        "number": number,
        "duration": functools.partial(duration, precise=True),
        "text": as_text,
        "label": label,
        "count": "{:,}".format,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "md": markdown_text,
        "json": functools.partial(json.dumps, ensure_ascii=False),
    }
    return templates


def printable(value: Any) -> Any:
    """Returns a value of a page; a string is escaped (`jaxft.core.text.escaped`), except for HTML and line breaks."""
    return escaped(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def chip(color: str) -> Markup:
    """Returns the HTML of a colored dot."""
    return Markup('<span class="chip" style="background:{}"></span>').format(color)


def markdown_text(text: str) -> str:
    """Returns a text on one line, with the special characters of Markdown escaped."""
    return re.sub(r"([\\`*{}\[\]<>|#~&$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))
