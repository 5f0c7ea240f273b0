"""Colors of settings and arms, the same in all figures of a page."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgb

from jaxft.report.levels import axis_positions, distinct, level_key, main_factor, other_levels

INK, MUTED, HAIR, UNCHANGED = "#1d2430", "#7b8290", "#e4e5e1", "#dcdcd6"

# Okabe & Ito, "Color Universal Design", 2008, with brown and gray for black and for yellow, which is faint on white.
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#555b66")

MAP = "viridis"


def setting_colors(factors: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a color for each setting.

    The shade shows the level of the main factor (`main_factor`); the hue shows the levels of all other factors. With
    one or more than eight combinations of the other factors, the colors follow the color map instead.
    """
    main = main_factor(factors, settings)
    combinations = distinct([other_levels(s, main, factors) for s in settings])
    if not 1 < len(combinations) <= len(HUES):
        return colormap_colors(len(settings))
    levels = axis_positions(distinct([s.get(main) for s in settings])).position
    order = sorted(levels, key=lambda key: levels[key])
    shades = dict(zip(order, np.linspace(0.45, -0.3, len(order))))
    hue_of = {level_key(combination): hue for combination, hue in zip(combinations, HUES)}
    return [
        _lighter(hue_of[level_key(other_levels(setting, main, factors))], shades[level_key(setting.get(main))])
        for setting in settings
    ]


def arm_colors(count: int) -> list[str]:
    """Returns `count` colors: different hues up to eight, otherwise colors of the color map."""
    if count <= len(HUES):
        return list(HUES[:count])
    return colormap_colors(count)


def colormap_colors(count: int) -> list[str]:
    """Returns `count` colors of the color map, from dark to light."""
    return [to_hex(matplotlib.colormaps[MAP](position)) for position in np.linspace(0.05, 0.85, count)]


def _lighter(hue: str, amount: float) -> str:
    """Returns `hue` mixed with the share `amount` of white, or with the share `-amount` of black if it is negative."""
    share, end = abs(amount), float(amount > 0)
    return to_hex([(1 - share) * channel + share * end for channel in to_rgb(hue)])
