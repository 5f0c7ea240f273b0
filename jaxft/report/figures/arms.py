"""Test accuracy of arms, with each seed."""

import math
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from jaxft.report.colors import MUTED
from jaxft.report.figures.axes import draw_accuracy_axis, side_by_side, whisker
from jaxft.report.figures.style import style, text_inches
from jaxft.report.figures.svg import to_svg
from jaxft.report.selection import Arm

DOT_HEIGHT = 0.03  # of the range of all dots
DOT_WIDTH = 0.05  # of the distance of two arms


@style()
def accuracy_by_arm(name: str, arms: Sequence[Arm], chance: float | None) -> Markup:
    """Returns a figure of the test accuracy of each arm: a dot per seed, and a diamond for the mean with its interval.

    Lines join the dots of a seed. `chance` is the accuracy of random guessing, in [0, 1].
    """
    labels = [arm.label.replace(" · ", "\n") for arm in arms]
    width = max(1.2, max(text_inches(line) for label in labels for line in label.split("\n")) + 0.35)
    figure = Figure(figsize=(width * len(arms) + 0.75, 3.4), layout="constrained")
    axes = figure.add_subplot()
    positions = [dot_positions(arm, i, arms) for i, arm in enumerate(arms)]
    for seed in {seed: None for arm in arms for seed in arm.selected}:
        values = [100 * arm.test_by_seed.get(seed, math.nan) for arm in arms]
        at = [by_seed.get(seed, i) for i, by_seed in enumerate(positions)]
        axes.plot(at, values, color=MUTED, linewidth=0.9, alpha=0.6, zorder=1)
    for i, (arm, by_seed) in enumerate(zip(arms, positions)):
        dots = [100 * arm.test_by_seed[seed] for seed in by_seed]
        axes.plot(
            list(by_seed.values()), dots, "o", color=arm.color, markersize=4.5, alpha=0.75, linestyle="none", zorder=2
        )
        if arm.test.num_values:
            beside = max(by_seed.values(), default=i) + 0.14
            axes.errorbar(
                beside, 100 * arm.test.mean, whisker(arm.test), fmt="D", color=arm.color, markersize=6.5,
                elinewidth=1.8, capsize=3.5, markeredgecolor="white", markeredgewidth=0.6, zorder=3,
            )  # fmt: skip
    axes.set_xticks(range(len(arms)), labels)
    axes.set_xlim(-0.5, len(arms) - 0.5)
    draw_accuracy_axis(axes, chance)
    return to_svg(figure, name, "Test accuracy of each arm and seed")


def dot_positions(arm: Arm, center: float, arms: Sequence[Arm]) -> dict[int, float]:
    """Returns the x position of the dot of each seed near `center`; dots of almost equal accuracy are side by side."""
    everything = [value for each in arms for value in each.test_by_seed.values()]
    distance = DOT_HEIGHT * ((max(everything) - min(everything)) or 1.0) if everything else 0.0
    columns = side_by_side(list(arm.test_by_seed.values()), distance)
    step = min(DOT_WIDTH, 0.5 / max(len(columns), 1))
    return {seed: center + step * column for seed, column in zip(arm.test_by_seed, columns)}
