"""What the pages share: templates, and numbers as texts for people."""

import functools
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jaxft.analysis.statistics import Interval

MISSING = "–"


def render_template(name: str, **values: Any) -> str:
    """Returns the template `name` of this folder with `values` in it, escaped where it is HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {"chip": chip, "plural": plural}
    environment.filters |= {
        "percent": percent,
        "interval": percent_interval,
        "points": points,
        "p_value": p_value,
        "number": number,
        "duration": duration,
        "text": as_text,
        "count": "{:,}".format,
        "md": markdown_text,
        "json": functools.partial(json.dumps, ensure_ascii=False),
    }
    return environment.get_template(name).render(values)


def chip(colour: str) -> Markup:
    """Returns a dot of a colour."""
    return Markup('<span class="chip" style="background:{}"></span>').format(colour)


def plural(count: int, word: str) -> str:
    """Returns a number of things, such as '1 seed' or '3 seeds'."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def percent(value: float | None) -> str:
    """Returns an accuracy in percent with one decimal, or a dash where there is none."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.1f}"


def percent_interval(value: Interval) -> str:
    """Returns a mean and half its interval's width in percent; the mean alone where there is one value."""
    return percent(value.mean) + ("" if math.isnan(value.half_width) else f" ± {100 * value.half_width:.1f}")


def points(value: Interval) -> str:
    """Returns a difference of accuracies in points, with its sign, and half its interval's width."""
    if not value.num_values:
        return MISSING
    mean = f"{100 * value.mean:+.1f}".replace("-", "−")
    return mean + ("" if math.isnan(value.half_width) else f" ± {100 * value.half_width:.1f}")


def p_value(value: float) -> str:
    """Returns a p-value with two digits; a dash where there is none."""
    return MISSING if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def number(value: float | None) -> str:
    """Returns three digits of a number, or a dash where there is none."""
    return MISSING if value is None or math.isnan(value) else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Returns a time for people, such as '2 min 05 s'."""
    if seconds is None or math.isnan(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def as_text(value: Any) -> str:
    """Returns a config's or a record's value as plain text."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {as_text(item)}" for name, item in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def markdown_text(text: str) -> str:
    """Returns a text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*{}\[\]<>|#~&$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))
