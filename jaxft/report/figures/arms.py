"""Test accuracy of arms, with each seed."""

import math
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from jaxft.report.colors import MUTED
from jaxft.report.figures.axes import draw_accuracy_axis
from jaxft.report.figures.style import style, text_inches
from jaxft.report.figures.svg import to_svg
from jaxft.report.selection import Arm


@style()
def accuracy_by_arm(name: str, arms: Sequence[Arm], chance: float | None) -> Markup:
    """Returns a figure of the test accuracy of each arm: a dot per seed, and a diamond for the mean with its interval.

    Lines join the dots of a seed. `chance` is the accuracy of random guessing, in [0, 1].
    """
    labels = [arm.label.replace(" · ", "\n") for arm in arms]
    width = max(1.2, max(text_inches(line) for label in labels for line in label.split("\n")) + 0.35)
    figure = Figure(figsize=(width * len(arms) + 0.75, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for seed in {seed: None for arm in arms for seed in arm.selected}:
        values = [100 * arm.test_by_seed.get(seed, math.nan) for arm in arms]
        axes.plot(range(len(arms)), values, color=MUTED, linewidth=0.9, alpha=0.6, zorder=1)
    for i, arm in enumerate(arms):
        dots = [100 * value for value in arm.test_by_seed.values()]
        axes.plot([i] * len(dots), dots, "o", color=arm.color, markersize=4.5, alpha=0.75, linestyle="none", zorder=2)
        if arm.test.num_values:
            whisker = None if math.isnan(arm.test.half_width) else 100 * arm.test.half_width
            axes.errorbar(
                i + 0.14, 100 * arm.test.mean, whisker, fmt="D", color=arm.color, markersize=6.5, elinewidth=1.8,
                capsize=3.5, markeredgecolor="white", markeredgewidth=0.6, zorder=3,
            )  # fmt: skip
    axes.set_xticks(range(len(arms)), labels)
    axes.set_xlim(-0.5, len(arms) - 0.5)
    draw_accuracy_axis(axes, chance)
    return to_svg(figure, name, "Test accuracy of each arm and seed")
