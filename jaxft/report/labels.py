"""Short, unique labels of factor levels, settings and arms."""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from jaxft.core.text import escaped, shortened
from jaxft.report.levels import distinct, is_number, level_key


def level_labels(levels: Sequence[Any]) -> dict[str, str]:
    """Returns a short label for each level, by its key.

    The label of a path is the file name, and a long text loses its middle. If two short labels are equal, all levels
    have their full text.
    """
    full = [level_text(level) for level in levels]
    named = [
        escaped(str(level["data"])) if isinstance(level, dict) and "data" in level else level_text(level)
        for level in levels
    ]
    short = [shortened(PurePath(text).stem if "/" in text else text) for text in named]
    return {level_key(level): text for level, text in zip(levels, short if len(set(short)) == len(short) else full)}


def level_text(level: Any) -> str:
    """Returns the full text of a level."""
    if level is None:
        return "none"
    if is_number(level):
        return f"{level:g}"
    if isinstance(level, str):
        return escaped(level)
    if isinstance(level, list | tuple):
        return ", ".join(level_text(item) for item in level) or "empty"
    return json.dumps(level)


def setting_labels(factors: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a label for each setting: its levels of the factors that vary, such as 'pretrained · 0.1'.

    Levels of None are omitted if all labels remain unique and nonempty.
    """
    varying = [name for name in factors if len(distinct([s.get(name) for s in settings])) > 1]
    labels = {name: level_labels(distinct([s.get(name) for s in settings])) for name in varying}
    levels = [[(s.get(n), labels[n][level_key(s.get(n))]) for n in varying] for s in settings]
    short = [" · ".join(text for level, text in pairs if level is not None) for pairs in levels]
    if varying and "" not in short and len(set(short)) == len(short):
        return short
    return [" · ".join(text for _, text in pairs) or "as configured" for pairs in levels]


def level_texts(plan: Mapping[str, Any]) -> list[list[str]]:
    """Returns the labels of the levels of each setting, [settings][factors]; see `level_labels`."""
    labels = {name: level_labels(distinct([s.get(name) for s in plan["settings"]])) for name in plan["factors"]}
    return [[labels[name][level_key(s.get(name))] for name in plan["factors"]] for s in plan["settings"]]
