"""Test accuracy by the levels of a factor."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxft.analysis.statistics import Interval, mean_interval
from jaxft.core.labels import label
from jaxft.report.colors import HUES, INK, MUTED
from jaxft.report.figures.axes import draw_accuracy_axis, whisker
from jaxft.report.figures.style import style, text_inches
from jaxft.report.figures.svg import to_svg
from jaxft.report.labels import level_labels, setting_labels
from jaxft.report.levels import axis_positions, is_number, level_key, main_factor, other_levels
from jaxft.report.settings import Setting, levels_of

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")


class Line(NamedTuple):
    """A line of the figure, with (level, interval, color) for each of its points."""

    label: str
    color: str
    points: list[tuple[Any, Interval, str]]


def factor_lines(factor: str, factors: Sequence[str], settings: Sequence[Setting]) -> tuple[list[Line], str]:
    """Returns the lines of the figure of `factor`, and their description for the caption.

    Each combination of the other factors has a line. If there are more than eight combinations, a single line shows
    their average instead, over the combinations that have every level of the factor (over all combinations, if none
    has). The average is computed for each seed that all of them share; the interval is over these seeds.
    """
    others = [name for name in factors if name != factor]
    names = " and ".join(map(label, others))
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(level_key(other_levels(setting.factors, factor, factors)), []).append(setting)
    if len(groups) <= len(HUES):
        has_hues = len(groups) > 1 and factor == main_factor(factors, [s.factors for s in settings])
        labels = setting_labels(others, [group[0].factors for group in groups.values()])
        lines = [
            Line(text, hue if has_hues else MUTED, [(s.factors.get(factor), s.test, s.color) for s in group])
            for text, group, hue in zip(labels, groups.values(), HUES)
        ]
        point_colors = "each point has the color of its setting"
        if len(groups) == 1:
            return lines, point_colors
        combination = f"combination of {names}" if len(others) > 1 else names
        return lines, f"one line per {combination}; {point_colors}"
    levels = levels_of(factor, settings)
    tested = [[s for s in group if s.test_by_seed] for group in groups.values()]
    complete = [group for group in tested if len(group) == len(levels)]
    points = []
    for level in levels:
        at_level = [
            s.test_by_seed
            for group in complete or tested
            for s in group
            if level_key(s.factors.get(factor)) == level_key(level)
        ]
        seeds = set.intersection(*map(set, at_level)) if at_level else set()
        means = [float(np.mean([by_seed[seed] for by_seed in at_level])) for seed in sorted(seeds)]
        points.append((level, mean_interval(means), INK))
    combinations = (
        f"the {len(complete)} combinations of {names} that have every level"
        if complete
        else f"all {len(groups)} combinations of {names}, because none has every level"
    )
    return [Line("", INK, points)], f"averaged within each seed over {combinations}"


@style()
def accuracy_by_factor(
    name: str, factor: str, factors: Sequence[str], settings: Sequence[Setting], chance: float | None
) -> Markup:
    """Returns a figure of test accuracy by the levels of one factor, with intervals over seeds.

    Args:
      name: prefix of the ids in the figure.
      factor: name of the factor on the x axis.
      factors: names of all factors that vary.
      settings: the settings of the study.
      chance: accuracy of random guessing, in [0, 1]; None if unknown.
    """
    levels = levels_of(factor, settings)
    labels, positions = level_labels(levels), axis_positions(levels)
    lines, _ = factor_lines(factor, factors, settings)
    order = sorted(positions.position, key=lambda key: positions.position[key])
    needed_widths = [  # inches per unit of the x axis, so that neighboring labels do not overlap
        (text_inches(labels[a]) + text_inches(labels[b]) + 0.3) / 2 / (positions.position[b] - positions.position[a])
        for a, b in itertools.pairwise(order)
    ]
    ends = positions.position[order[0]] - 0.5, positions.position[order[-1]] + 0.5
    width = max(3.4, max(needed_widths) * (ends[1] - ends[0]))
    title = " · ".join(label(other) for other in factors if other != factor)
    with_legend = len(lines) > 1
    legend = max(map(text_inches, (title, *(line.label for line in lines)))) + 0.6 if with_legend else 0.0
    figure = Figure(figsize=(width + 0.75 + legend, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for i, (line, marker) in enumerate(zip(lines, MARKERS)):
        shift = (i - (len(lines) - 1) / 2) * min(0.08, 0.5 / len(lines))
        points = sorted(line.points, key=lambda point: positions.position[level_key(point[0])])
        for numeric in (False, True):
            drawn = [p for p in points if is_number(p[0]) == numeric and p[1].num_values]
            at = [positions.position[level_key(level)] + shift for level, _, _ in drawn]
            axes.plot(at, [100 * v.mean for _, v, _ in drawn], color=line.color, linewidth=1.3, alpha=0.75, zorder=2)
            for x, (_, value, color) in zip(at, drawn):
                axes.errorbar(
                    x, 100 * value.mean, whisker(value), fmt=marker, color=color, markersize=6, elinewidth=1.6,
                    capsize=3, markeredgecolor="white", markeredgewidth=0.6, zorder=3,
                )  # fmt: skip
    axes.set_xticks([positions.position[key] for key in order], [labels[key] for key in order])
    axes.set_xlim(*ends)
    axes.set_xlabel(label(factor), labelpad=6)
    if positions.separator is not None:
        axes.axvline(positions.separator, color=MUTED, linewidth=0.7)
    draw_accuracy_axis(axes, chance)
    if with_legend:
        handles = [
            Line2D([], [], color=line.color, marker=marker, markersize=6, linewidth=1.3, label=line.label)
            for line, marker in zip(lines, MARKERS)
        ]
        figure.legend(handles=handles, loc="outside right upper", title=title, alignment="left")
    return to_svg(figure, name, f"Test accuracy by {factor}")
