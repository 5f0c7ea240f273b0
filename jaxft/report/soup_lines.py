"""The figure of `jaxft soup`: validation accuracy between the initial and the fine-tuned weights (WiSE-FT)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.store.records import Store


def mean_interval_of(values: "pd.Series") -> Any:
    """Returns the mean of accuracies over seeds, with its interval."""
    from jaxft.analysis.statistics import mean_interval

    return mean_interval(values.to_numpy())


def legend_labels(factors: Sequence[str], levels: Sequence[Sequence[str]]) -> list[str]:
    """Returns a label for each setting, such as 'learning rate 0.1, layers decay 0.5', of the factors that vary.

    Args:
      factors: the names of the factors.
      levels: labels of the levels of each setting, [settings][factors].
    """
    from jaxft.core.labels import label

    varying = [i for i in range(len(factors)) if len({row[i] for row in levels}) > 1] or list(range(len(factors)))
    return [", ".join(f"{label(factors[i])} {row[i]}" for i in varying) for row in levels]


def draw_lines(store: "Store", plan: Mapping[str, Any], levels: Sequence[Sequence[str]], lines: "pd.DataFrame") -> Path:
    """Draws the validation accuracy of interpolated networks, one curve per setting, to `soup.png`; returns its path.

    Args:
      store: records of the study; the figure is written into its work directory.
      plan: plan of the study.
      levels: labels of the levels of each setting, [settings][factors].
      lines: table with the columns 'setting', 'alpha' and 'val_accuracy'; one row per trial and alpha.

    Raises:
      UserError: if the figure cannot be written.
    """
    import numpy as np
    from matplotlib.figure import Figure

    from jaxft.core.files import explained_os_errors, replacing
    from jaxft.report.colors import setting_colors
    from jaxft.report.figures.style import saved, style

    names = legend_labels(plan["factors"], levels)
    colors = setting_colors(plan["factors"], plan["settings"])
    path = store.workdir / "soup.png"
    with style():
        figure = Figure(figsize=(6.4, 3.8), layout="constrained", facecolor="white", dpi=150)
        axes = figure.subplots()
        known = lines.astype({"val_accuracy": "float64"})
        for number in sorted(known["setting"].unique().tolist()):
            by_alpha = known[known["setting"] == number].groupby("alpha")["val_accuracy"]
            intervals = [mean_interval_of(values) for _, values in by_alpha]
            alphas, mean = np.array(list(by_alpha.groups)), 100 * np.array([interval.mean for interval in intervals])
            half = 100 * np.nan_to_num([interval.half_width for interval in intervals])
            low, high = np.clip((mean - half, mean + half), 0, 100)
            axes.fill_between(alphas, low, high, color=colors[number], alpha=0.15, linewidth=0)
            name = names[number]
            axes.plot(alphas, mean, color=colors[number], marker="o", markersize=3, linewidth=1.6, label=name)
        axes.set_xlabel("alpha (0: initial weights, 1: fine-tuned weights)")
        axes.set_ylabel("validation accuracy, %")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2), min(high, 102))
        if plan["factors"]:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        with explained_os_errors(store.workdir), replacing(path) as temporary:
            temporary.write_bytes(saved(figure, format="png"))
    return path
