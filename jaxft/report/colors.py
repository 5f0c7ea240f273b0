"""Colors: one for each setting and arm, the same in all figures of a page."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgb

from jaxft.report.levels import axis_positions, distinct, level_key, main_factor, other_levels

INK, MUTED, HAIR, UNCHANGED = "#1d2430", "#7b8290", "#e4e5e1", "#dcdcd6"

# Okabe and Ito, "Color Universal Design", 2008, without its yellow, which white paper swallows.
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#555b66")

MAP = "viridis"


def setting_colors(factors: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a color for each setting: a shade for each level of the main factor, a hue for each line."""
    main = main_factor(factors, settings)
    families = distinct([other_levels(s, main, factors) for s in settings])
    if not 1 < len(families) <= len(HUES):
        return shades_of_the_map(len(settings))
    levels = axis_positions(distinct([s.get(main) for s in settings])).position
    order = sorted(levels, key=lambda key: levels[key])
    shades = dict(zip(order, np.linspace(0.45, -0.3, len(order))))
    hue_of = {level_key(family): hue for family, hue in zip(families, HUES)}
    return [_mixed(hue_of[level_key(other_levels(s, main, factors))], shades[level_key(s.get(main))]) for s in settings]


def arm_colors(count: int) -> list[str]:
    """Returns a color for each arm: the hues, or shades of the map where there are more."""
    if count <= len(HUES):
        return list(HUES[:count])
    return shades_of_the_map(count)


def shades_of_the_map(count: int) -> list[str]:
    """Returns colors from dark to light."""
    return [to_hex(matplotlib.colormaps[MAP](at)) for at in np.linspace(0.05, 0.85, count)]


def _mixed(hue: str, towards_white: float) -> str:
    """Returns `hue` mixed with white, or with black where the share is negative."""
    share, end = abs(towards_white), float(towards_white > 0)
    return to_hex([(1 - share) * part + share * end for part in to_rgb(hue)])
