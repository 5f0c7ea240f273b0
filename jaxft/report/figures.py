"""Pictures of a study as inline SVG: the same bytes for the same records, and no id twice on a page.

A picture has a size in CSS pixels and is shrunk to `SHRINK` of it at most; a narrower screen scrolls. The
colour of a setting is the same in all of them.
"""

import contextlib
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.colors import LogNorm, Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from jaxft.analysis.statistics import Interval, mean_interval
from jaxft.config.labels import label

INK, MUTED, HAIR, UNCHANGED = "#1d2430", "#7b8290", "#e4e5e1", "#dcdcd6"
# Okabe and Ito, "Color Universal Design", 2008, without its yellow, which white paper swallows.
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#555b66")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
MAP = "viridis"
FONT, FONT_PT = (
    "DejaVu Sans",
    9.5,
)  # the font that matplotlib brings along, so that every machine draws the same
SHRINK = 0.75
MOST_CHARACTERS = 22
TICK_STEPS = (1, 2, 5, 10)
MOST_NAMED_LAYERS = 60
STYLE = {
    "font.family": FONT,
    "font.size": FONT_PT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelsize": FONT_PT,
    "grid.color": HAIR,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": FONT_PT - 0.5,
    "legend.title_fontsize": FONT_PT - 0.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "jaxft",
}


class Setting(NamedTuple):
    """One combination of levels, and what came of it; accuracies are in [0, 1], by seed or as intervals.

    `per_class` is the test accuracy as a mean over classes.
    """

    number: int
    factors: Mapping[str, Any]
    label: str
    colour: str
    planned: int
    done: int
    diverged: int
    test_by_seed: Mapping[int, float]
    val: Interval
    test: Interval
    per_class: Interval
    change: Interval


class Arm(NamedTuple):
    """Settings that differ in what is selected on validation alone, and by seed the row of results selected of them."""

    number: int
    factors: Mapping[str, Any]
    label: str
    colour: str
    num_levels: int
    planned: int
    diverged: int
    selected: Mapping[int, Mapping[str, Any]]
    val: Interval
    test: Interval
    per_class: Interval

    @property
    def test_by_seed(self) -> dict[int, float]:
        """Returns the test accuracy of each seed's selected trial, in [0, 1]."""
        return {seed: row["test_accuracy"] for seed, row in self.selected.items()}


class Curve(NamedTuple):
    """A quantity by epoch: its mean over seeds and half the width of the interval, [epochs] each."""

    epoch: np.ndarray
    mean: np.ndarray
    half_width: np.ndarray


# --- levels, labels, colours --------------------------------------------------------------------------------


def level_key(level: Any) -> str:
    """Returns a text that tells levels apart, whatever they are."""
    return json.dumps(level, sort_keys=True)


def distinct(levels: Sequence[Any]) -> list[Any]:
    """Returns the levels, each once, in the order in which they appear."""
    return list({level_key(level): level for level in levels}.values())


def levels_of(factor: str, settings: Sequence[Setting]) -> list[Any]:
    """Returns the levels that a factor has in the settings."""
    return distinct([setting.factors.get(factor) for setting in settings])


def is_number(level: Any) -> bool:
    """Tells whether a level has a place on an axis of numbers."""
    return isinstance(level, int | float) and not isinstance(level, bool)


def level_labels(levels: Sequence[Any]) -> dict[str, str]:
    """Returns a short label for each level, by its key: the names of files and data, long texts with their middle cut.

    Where that would make two levels alike, all keep their whole text.
    """
    whole = [_level_text(level) for level in levels]
    named = [
        str(level["data"]) if isinstance(level, dict) and "data" in level else _level_text(level) for level in levels
    ]
    short = [shortened(PurePath(text).stem if "/" in text else text) for text in named]
    return {level_key(level): text for level, text in zip(levels, short if len(set(short)) == len(short) else whole)}


def _level_text(level: Any) -> str:
    if level is None:
        return "none"
    if is_number(level):
        return f"{level:g}"
    if isinstance(level, str):
        return level
    if isinstance(level, list | tuple):
        return ", ".join(_level_text(item) for item in level) or "empty"
    return json.dumps(level)


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """Returns `text` with its middle cut where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


def setting_labels(factors: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what tells each setting from the others: its levels of the factors that vary.

    Levels that are none are left out, unless that would make two settings alike or leave one without a label.
    """
    varying = [name for name in factors if len(distinct([s.get(name) for s in settings])) > 1]
    labels = {name: level_labels(distinct([s.get(name) for s in settings])) for name in varying}
    whole = [[(s.get(n), labels[n][level_key(s.get(n))]) for n in varying] for s in settings]
    short = [" · ".join(text for level, text in pairs if level is not None) for pairs in whole]
    if varying and "" not in short and len(set(short)) == len(short):
        return short
    return [" · ".join(text for _, text in pairs) or "as configured" for pairs in whole]


def setting_colours(factors: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a colour for each setting: a shade for each level of the main factor, a hue for each line."""
    main = main_factor(factors, settings)
    families = distinct([_rest(s, main, factors) for s in settings])
    if not 1 < len(families) <= len(HUES):
        return shades_of_the_map(len(settings))
    levels = place_levels(distinct([s.get(main) for s in settings])).place
    order = sorted(levels, key=lambda key: levels[key])
    shades = dict(zip(order, np.linspace(0.45, -0.3, len(order))))
    hue_of = {level_key(family): hue for family, hue in zip(families, HUES)}
    return [_mixed(hue_of[level_key(_rest(s, main, factors))], shades[level_key(s.get(main))]) for s in settings]


def arm_colours(count: int) -> list[str]:
    """Returns a colour for each arm: the hues, or shades of the map where there are more."""
    if count <= len(HUES):
        return list(HUES[:count])
    return shades_of_the_map(count)


def shades_of_the_map(count: int) -> list[str]:
    """Returns colours from dark to light."""
    return [to_hex(matplotlib.colormaps[MAP](at)) for at in np.linspace(0.05, 0.85, count)]


def main_factor(factors: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> str:
    """Returns the factor with most levels, the first of them; an empty text where there are no factors."""
    return max(factors, key=lambda name: len(distinct([s.get(name) for s in settings])), default="")


def _rest(levels: Mapping[str, Any], factor: str, factors: Sequence[str]) -> list[Any]:
    return [levels.get(name) for name in factors if name != factor]


def _mixed(hue: str, towards_white: float) -> str:
    """Returns `hue` mixed with white, or with black where the share is negative."""
    share, end = abs(towards_white), float(towards_white > 0)
    return to_hex([(1 - share) * part + share * end for part in to_rgb(hue)])


# --- accuracy by factor -------------------------------------------------------------------------------------


class Places(NamedTuple):
    """Where levels stand on the axis, by key, about one unit apart; words stand left of `apart`."""

    place: dict[str, float]
    apart: float | None
    note: str


class Line(NamedTuple):
    """A line of the picture: its label, its colour, and (level, interval, colour) of its points."""

    label: str
    colour: str
    points: list[tuple[Any, Interval, str]]


def place_levels(levels: Sequence[Any]) -> Places:
    """Returns where `levels` stand: numbers in order, by logarithm beyond a decade; words at the left."""
    numbers = sorted(level for level in levels if is_number(level))
    words = [level for level in levels if not is_number(level)]
    at = np.asarray(numbers, dtype=np.float64)
    note = ""
    if len(at) > 1:
        if at[0] > 0 and at[-1] > 10 * at[0]:
            at, note = np.log10(at), "on a logarithmic axis"
        gaps = np.diff(at)
        if gaps.min() < gaps.mean() / 4:
            at, note = np.arange(len(at), dtype=np.float64), "evenly spaced"
        at = (at - at[0]) / np.diff(at).mean()
    gap = 1.3 if numbers and words else 1.0
    place = {level_key(word): i - len(words) + 1 - gap for i, word in enumerate(words)}
    place |= {level_key(number): float(x) for number, x in zip(numbers, at - at[0] if len(at) else at)}
    return Places(place, -gap / 2 if numbers and words else None, note)


def factor_lines(factor: str, factors: Sequence[str], settings: Sequence[Setting]) -> tuple[list[Line], str]:
    """Returns the lines for one of the factors, and how the caption names them.

    There is a line for each combination of the other factors. Where there are more than eight, one line shows
    the average over those of them that have every level of the factor (over all, where none has), for each
    seed that all of them have, with the interval over those seeds.
    """
    others = [name for name in factors if name != factor]
    names = " and ".join(others)
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(level_key(_rest(setting.factors, factor, factors)), []).append(setting)
    if len(groups) <= len(HUES):
        has_hues = len(groups) > 1 and factor == main_factor(factors, [s.factors for s in settings])
        labels = setting_labels(others, [group[0].factors for group in groups.values()])
        lines = [
            Line(label, hue if has_hues else MUTED, [(s.factors.get(factor), s.test, s.colour) for s in group])
            for label, group, hue in zip(labels, groups.values(), HUES)
        ]
        words = "a point has the colour of its setting"
        return lines, f"a line for each {names}; {words}" if len(groups) > 1 else words
    levels = levels_of(factor, settings)
    tested = [[s for s in group if s.test_by_seed] for group in groups.values()]
    complete = [group for group in tested if len(group) == len(levels)]
    points = []
    for level in levels:
        there = [
            s.test_by_seed
            for group in complete or tested
            for s in group
            if level_key(s.factors.get(factor)) == level_key(level)
        ]
        seeds = set.intersection(*map(set, there)) if there else set()
        means = [float(np.mean([by_seed[seed] for by_seed in there])) for seed in sorted(seeds)]
        points.append((level, mean_interval(means), INK))
    which = (
        f"the {len(complete)} combinations of {names} that have every level"
        if complete
        else f"all {len(groups)} combinations of {names}, of which none has every level"
    )
    return [Line("", INK, points)], f"averaged, seed by seed, over {which}"


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draws in the report's style, whatever this machine's matplotlib is set to."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


@style()
def accuracy_by_factor(
    name: str, factor: str, factors: Sequence[str], settings: Sequence[Setting], chance: float | None
) -> Markup:
    """Returns test accuracy against the levels of one factor, with intervals over seeds."""
    levels = levels_of(factor, settings)
    labels, places = level_labels(levels), place_levels(levels)
    lines, _ = factor_lines(factor, factors, settings)
    order = sorted(places.place, key=lambda key: places.place[key])
    room = [
        (text_inches(labels[a]) + text_inches(labels[b]) + 0.3) / 2 / (places.place[b] - places.place[a])
        for a, b in itertools.pairwise(order)
    ]
    ends = places.place[order[0]] - 0.5, places.place[order[-1]] + 0.5
    width = max(3.4, max(room) * (ends[1] - ends[0]))
    title = " · ".join(label(other) for other in factors if other != factor)
    with_legend = len(lines) > 1
    legend = max(map(text_inches, (title, *(line.label for line in lines)))) + 0.6 if with_legend else 0.0
    figure = Figure(figsize=(width + 0.75 + legend, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for i, (line, marker) in enumerate(zip(lines, MARKERS)):
        shift = (i - (len(lines) - 1) / 2) * min(0.08, 0.5 / len(lines))
        points = sorted(line.points, key=lambda point: places.place[level_key(point[0])])
        for numeric in (False, True):
            part = [p for p in points if is_number(p[0]) == numeric and p[1].num_values]
            at = [places.place[level_key(level)] + shift for level, _, _ in part]
            axes.plot(at, [100 * v.mean for _, v, _ in part], color=line.colour, linewidth=1.3, alpha=0.75, zorder=2)
            for x, (_, value, colour) in zip(at, part):
                whisker = None if math.isnan(value.half_width) else 100 * value.half_width
                axes.errorbar(
                    x, 100 * value.mean, whisker, fmt=marker, color=colour, markersize=6, elinewidth=1.6,
                    capsize=3, markeredgecolor="white", markeredgewidth=0.6, zorder=3,
                )  # fmt: skip
    axes.set_xticks([places.place[key] for key in order], [labels[key] for key in order])
    axes.set_xlim(*ends)
    axes.set_xlabel(label(factor), labelpad=6)
    axes.set_ylabel("test accuracy, %")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=TICK_STEPS))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))  # intervals over few seeds can reach beyond what is possible
    if places.apart is not None:
        axes.axvline(places.apart, color=MUTED, linewidth=0.7)
    _draw_chance(axes, chance)
    if with_legend:
        handles = [
            Line2D([], [], color=line.colour, marker=marker, markersize=6, linewidth=1.3, label=line.label)
            for line, marker in zip(lines, MARKERS)
        ]
        figure.legend(handles=handles, loc="outside right upper", title=title, alignment="left")
    return to_svg(figure, name, f"Test accuracy against {factor}")


def _draw_chance(axes: Any, chance: float | None) -> None:
    low, high = axes.get_ylim()
    if chance is not None and low <= 100 * chance <= high:
        axes.axhline(100 * chance, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set_ylim(low, high)


# --- arms ---------------------------------------------------------------------------------------------------


@style()
def accuracy_by_arm(name: str, arms: Sequence[Arm], chance: float | None) -> Markup:
    """Returns the test accuracy of each arm: a dot a seed, joined between neighbours, and mean and interval beside."""
    labels = [arm.label.replace(" · ", "\n") for arm in arms]
    room = max(1.2, max(text_inches(line) for label in labels for line in label.split("\n")) + 0.35)
    figure = Figure(figsize=(room * len(arms) + 0.75, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for seed in {seed: None for arm in arms for seed in arm.selected}:
        values = [100 * arm.test_by_seed.get(seed, math.nan) for arm in arms]
        axes.plot(range(len(arms)), values, color=MUTED, linewidth=0.9, alpha=0.6, zorder=1)
    for i, arm in enumerate(arms):
        dots = [100 * value for value in arm.test_by_seed.values()]
        axes.plot([i] * len(dots), dots, "o", color=arm.colour, markersize=4.5, alpha=0.75, linestyle="none", zorder=2)
        if arm.test.num_values:
            whisker = None if math.isnan(arm.test.half_width) else 100 * arm.test.half_width
            axes.errorbar(
                i + 0.14, 100 * arm.test.mean, whisker, fmt="D", color=arm.colour, markersize=6.5, elinewidth=1.8,
                capsize=3.5, markeredgecolor="white", markeredgewidth=0.6, zorder=3,
            )  # fmt: skip
    axes.set_xticks(range(len(arms)), labels)
    axes.set_xlim(-0.5, len(arms) - 0.5)
    axes.set_ylabel("test accuracy, %")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=TICK_STEPS))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))  # intervals over few seeds can reach beyond what is possible
    _draw_chance(axes, chance)
    return to_svg(figure, name, "Test accuracy of each arm, seed by seed")


# --- learning curves ----------------------------------------------------------------------------------------


@style()
def learning_curves(
    name: str,
    settings: Sequence[Setting],
    curves: Mapping[int, tuple[Curve, Curve]],
    chosen: int | None,
    chance: float | None,
) -> list[Markup]:
    """Returns a picture a setting, all on the same axes: validation accuracy above, training loss below.

    `curves` holds (accuracy, loss) by setting number; those of the setting `chosen` are behind all others.
    """
    accuracies, losses = ([pair[i] for pair in curves.values()] for i in (0, 1))
    accuracy_limits, loss_limits = limits(accuracies, 100.0), limits(losses, 1.0)
    logarithmic = loss_limits is not None and loss_limits[0] > 0 and loss_limits[1] > 10 * loss_limits[0]
    last = max((float(curve.epoch[-1]) for curve in accuracies if len(curve.epoch)), default=0.0) or 1.0
    pictures = []
    for setting in settings:
        figure = Figure(figsize=(2.3, 2.9), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for axes, which, factor in ((above, 0, 100.0), (below, 1, 1.0)):
            if chosen is not None and chosen != setting.number and chosen in curves:
                behind = curves[chosen][which]
                axes.plot(behind.epoch, factor * behind.mean, color="#b9bcc2", linewidth=1.1)
            if setting.number in curves:
                curve = curves[setting.number][which]
                low, high = (factor * (curve.mean + sign * curve.half_width) for sign in (-1, 1))
                axes.fill_between(curve.epoch, low, high, color=setting.colour, alpha=0.18, linewidth=0)
                dot = "o" if len(curve.epoch) == 1 else None  # a line of one point is not seen
                axes.plot(curve.epoch, factor * curve.mean, marker=dot, color=setting.colour, linewidth=1.7)
            else:
                axes.text(0.5, 0.5, "no finished trial", transform=axes.transAxes, ha="center", color=MUTED)
        above.set_ylabel("val. accuracy, %")
        below.set_ylabel("training loss")
        below.set_xlabel("epoch")
        below.set_xlim(0, last)
        below.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=TICK_STEPS))
        above.yaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS))
        if accuracy_limits:
            above.set_ylim(*accuracy_limits)
        if logarithmic:
            below.set_yscale("log")
            below.yaxis.set_major_locator(LogLocator(numticks=5))
            below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            below.minorticks_off()
        else:
            below.yaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS))
        if loss_limits:
            below.set_ylim(*loss_limits)
        _draw_chance(above, chance)
        figure.align_ylabels()
        what = f"Validation accuracy and training loss by epoch, setting {setting.number}"
        pictures.append(to_svg(figure, f"{name}-{setting.number}", what))
    return pictures


def limits(curves: Sequence[Curve], factor: float) -> tuple[float, float] | None:
    """Returns the limits that hold all mean curves, and a little more; None where there is no number."""
    values = np.concatenate([np.zeros(0), *(factor * curve.mean for curve in curves)])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 10 * low:
        return low / 1.3, high * 1.3
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin


# --- heat maps ----------------------------------------------------------------------------------------------


@style()
def change_map(name: str, settings: Sequence[Setting], layers: Sequence[str], values: np.ndarray) -> Markup:
    """Returns relative change by layer (rows) and setting (columns).

    values: [layers, settings] float64; zero where a layer did not move, nan where nothing was measured.
    """
    every = 1 if len(layers) <= MOST_NAMED_LAYERS else 2
    row, column = (0.19 if every == 1 else 0.095), (0.42 if len(settings) <= 14 else 0.24)
    heads = [shortened(f"{s.number}   {s.label}", 56) for s in settings]
    names = [shortened(layer, 40) for layer in layers]
    box = (len(settings) * column, len(layers) * row)
    left, top = max(map(text_inches, names)) + 0.2, max(map(text_inches, heads)) + 0.35
    figure = Figure(figsize=(left + max(box[0], 1.0) + 1.15, top + max(box[1], 1.6) + 0.45))
    axes = axes_at(figure, left, top, *box)
    image = _draw_map(axes, values)
    axes.set_yticks(range(0, len(layers), every), names[::every])
    axes.set_xticks(range(len(settings)), heads, rotation=90)
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", pad=9)
    for i, setting in enumerate(settings):
        _strip(axes, i / len(settings), 1 + 0.03 / box[1], 1 / len(settings), 0.07 / box[1], setting.colour)
    _draw_scale(figure, image, left + box[0] + 0.25, top, max(box[1], 1.6), "relative change of the layer")
    _draw_key(figure, left, top + max(box[1], 1.6) + 0.16, "unchanged")
    return to_svg(figure, name, "Relative change of the weights by layer and setting")


@style()
def distance_map(name: str, settings: Sequence[Setting], owners: Sequence[int], distances: np.ndarray) -> Markup:
    """Returns the distances between runs; `owners` are the places in `settings` of the runs, in rising order.

    distances: [runs, runs] float64.
    """
    side = min(6.4, max(2.4, 0.3 * len(owners)))
    cell = side / len(owners)
    left, top = 0.85, 0.7
    figure = Figure(figsize=(left + side + 1.15, top + side + 0.45))
    axes = axes_at(figure, left, top, side, side)
    image = _draw_map(axes, distances)
    middles, present = [], sorted(set(owners))
    for place in present:
        first, count = list(owners).index(place), list(owners).count(place)
        middles.append(first + (count - 1) / 2)
        colour = settings[place].colour
        _strip(axes, first * cell / side, 1 + 0.03 / side, count * cell / side, 0.09 / side, colour)
        _strip(axes, -0.12 / side, 1 - (first + count) * cell / side, 0.09 / side, count * cell / side, colour)
        if first:
            axes.axhline(first - 0.5, color="white", linewidth=1.6)
            axes.axvline(first - 0.5, color="white", linewidth=1.6)
    numbers = [str(settings[place].number) for place in present]
    axes.set_xticks(middles, numbers)
    axes.set_yticks(middles, numbers)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(pad=11, labelsize=FONT_PT if side / len(present) > 0.2 else FONT_PT - 3)
    axes.set_xlabel("setting", labelpad=7)
    axes.set_ylabel("setting", labelpad=7)
    _draw_scale(figure, image, left + side + 0.25, top, side, "L2 distance over the body")
    _draw_key(figure, left, top + side + 0.16, "the same weights")
    return to_svg(figure, name, "Distances between the final weights of all pairs of runs")


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Any:
    """Returns axes at a place given in inches from the figure's upper left corner."""
    whole = figure.get_size_inches()
    return figure.add_axes((left / whole[0], 1 - (top + height) / whole[1], width / whole[0], height / whole[1]))


def _draw_map(axes: Any, values: np.ndarray) -> Any:
    """Draws a matrix, zero in a colour of its own and nan in none; returns its scale, a log one if needed."""
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if len(positive) else (0.0, 1.0)
    norm = LogNorm(max(low, high * 1e-6), high) if high > 10 * low > 0 else Normalize(low if high > low else 0, high)
    colours = matplotlib.colormaps[MAP].resampled(64)(norm(np.ma.masked_invalid(np.where(values > 0, values, high))))
    colours[values == 0] = (*to_rgb(UNCHANGED), 1.0)
    colours[~np.isfinite(values)] = 0.0
    axes.imshow(colours, aspect="auto", interpolation="none")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return matplotlib.cm.ScalarMappable(norm, matplotlib.colormaps[MAP].resampled(64))


def _draw_scale(figure: Figure, image: Any, left: float, top: float, height: float, label: str) -> None:
    axes = axes_at(figure, left, top, 0.14, min(height, 3.2))
    bar = figure.colorbar(image, cax=axes)
    bar.outline.set_visible(False)
    bar.set_label(label)
    axes.grid(False)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(length=2, width=0.7)


def _draw_key(figure: Figure, left: float, top: float, label: str) -> None:
    axes = axes_at(figure, left, top, 0.16, 0.16)
    axes.set_facecolor(UNCHANGED)
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.text(1.5, 0.5, label, transform=axes.transAxes, va="center")


def _strip(axes: Any, x: float, y: float, width: float, height: float, colour: str) -> None:
    axes.add_patch(
        Rectangle(
            (x, y),
            width,
            height,
            transform=axes.transAxes,
            clip_on=False,
            facecolor=colour,
            edgecolor="white",
            linewidth=1.0,
        )
    )


# --- SVG ----------------------------------------------------------------------------------------------------


def text_inches(text: str, size_pt: float = FONT_PT) -> float:
    """Returns the width of a line of text in the report's font."""
    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), text, prop=FontProperties(family=FONT, size=size_pt)).get_extents().width) / 72


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
