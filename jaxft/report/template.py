"""What the pages share: templates, and numbers as texts for people."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jaxft.core.text import as_text, duration, number, p_value, percent, percent_interval, plural, points


def render_template(name: str, **values: Any) -> str:
    """Returns the template `name` of this folder with `values` in it, escaped where it is HTML."""
    return environment().get_template(name).render(values)


def render_fragment(name: str, **values: Any) -> Markup:
    """Returns a piece of a page from the template `name`, as HTML that is not escaped again."""
    return Markup(render_template(name, **values))


@functools.cache
def environment() -> jinja2.Environment:
    """Returns the templates of this folder, with the filters that write numbers as texts."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
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
        "count": "{:,}".format,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "md": markdown_text,
        "json": functools.partial(json.dumps, ensure_ascii=False),
    }
    return templates


def chip(color: str) -> Markup:
    """Returns a dot of a color."""
    return Markup('<span class="chip" style="background:{}"></span>').format(color)


def markdown_text(text: str) -> str:
    """Returns a text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*{}\[\]<>|#~&$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))
