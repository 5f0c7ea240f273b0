"""Formatting of values: times, percentages, intervals, p-values and sizes; escaping and shortening."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"
MOST_CHARACTERS = 22  # of a label
MOST_NAMED = 3  # items of a list in a message
MOST_SHOWN = 60  # characters of a wrong value in a message
LONGEST_NAME = 200  # characters of an item


def duration(seconds: float | None, precise: bool = False) -> str:
    """Returns a time with its unit: '42 s', '3 min', '2 h 05 min'; a dash if `seconds` is None or nan.

    If `precise`, times below a minute have three digits ('20.5 s'), and times below an hour seconds ('2 min 05 s').
    """
    if seconds is None or math.isnan(seconds):
        return MISSING
    if precise and seconds < 60:
        return f"{seconds:.3g} s"
    if precise:
        minutes, remainder = divmod(round(seconds), 60)
        return f"{minutes} min {remainder:02d} s" if minutes < 60 else _hours(minutes)
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else _hours(minutes)


def _hours(minutes: int) -> str:
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(value: float | None) -> str:
    """Returns an accuracy in percent with one decimal, without the unit; a dash if it is None or nan."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.1f}"


def percent_interval(value: tuple[float, float, int]) -> str:
    """Returns (mean, half width of the interval, number of values) in percent: '83.0 ± 4.1'; for one value, '83.0'.

    An interval that would end below 0 or above 100 ends there: '98.3 (94.6 to 100.0)'.
    """
    mean, half_width, _ = value
    if math.isnan(half_width):
        return percent(mean)
    low, high = share_bounds(mean, half_width)
    if low > mean - half_width or high < mean + half_width:
        return f"{percent(mean)} ({percent(low)} to {percent(high)})"
    return f"{percent(mean)} ± {100 * half_width:.1f}"


def share_bounds(mean: float, half_width: float) -> tuple[float, float]:
    """Returns the ends of an interval of an accuracy or another share, cut to [0, 1]."""
    return max(mean - half_width, 0.0), min(mean + half_width, 1.0)


def points(value: tuple[float, float, int]) -> str:
    """Returns a difference of accuracies in percentage points, with its sign: '+6.7 ± 11.5'.

    `value` is (mean, half width of the interval, number of values).
    """
    mean, half_width, num_values = value
    if not num_values:
        return MISSING
    text = f"{100 * mean:+.1f}".replace("-", "−")
    return text + ("" if math.isnan(half_width) else f" ± {100 * half_width:.1f}")


def p_value(value: float) -> str:
    """Returns a p-value with two digits, or '< 0.001'; a dash if it is nan."""
    return MISSING if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def number(value: float | None) -> str:
    """Returns a number with three digits; a dash if it is None or nan."""
    return MISSING if value is None or math.isnan(value) else f"{value:.3g}"


def number_interval(value: tuple[float, float, int]) -> str:
    """Returns (mean, half width of the interval, number of values) with three and two digits: '0.83 ± 0.041'."""
    mean, half_width, _ = value
    return number(mean) + ("" if math.isnan(half_width) else f" ± {half_width:.2g}")


def plural(count: int, word: str) -> str:
    """Returns a count with its noun, such as '1 seed' or '3 seeds'."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """Returns `text`, or if it is longer than `most` characters, its start and end: 'abc…xyz'."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


def cut_off(text: str, most: int) -> str:
    """Returns `text`, or if it is longer than `most` characters, its start: 'abc...'."""
    return text if len(text) <= most else text[: most - 3] + "..."


def escaped(text: str, keep: str = "") -> str:
    """Returns `text` with an escape sequence in place of each character that cannot be printed.

    These are control characters, such as the start of an ANSI sequence or a line break, invisible characters, such as
    those that change the direction of the text, and halves of surrogate pairs. The characters in `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def shown(value: Any, most: int = MOST_SHOWN) -> str:
    """Returns the `repr` of a wrong value for a message, cut off after `most` characters."""
    try:
        return cut_off(repr(value), most)
    except ValueError:  # an integer of more than 4,300 digits
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def some_of(texts: Sequence[str], most: int = MOST_NAMED) -> str:
    """Returns the first `most` texts and the number of the other texts: 'a, b, c and 40 more'. Long texts are cut."""
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(shortened(text, LONGEST_NAME) for text in texts[:most]) + more


def byte_size(num_bytes: int) -> str:
    """Returns a size with its unit: '1.2 GB', '36.5 MB'."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def as_text(value: Any) -> str:
    """Returns a value of a config or a record as a string."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {as_text(item)}" for name, item in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
