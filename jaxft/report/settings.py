"""The settings of a study, with means over their trials."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxft.analysis.statistics import Interval, mean_interval
from jaxft.core import interrupts
from jaxft.core.text import plural
from jaxft.report.colors import setting_colors
from jaxft.report.labels import setting_labels
from jaxft.report.levels import distinct
from jaxft.store.columns import columns_of

if TYPE_CHECKING:
    import pandas as pd


class Means:
    """Accuracies among the means of several trials."""

    means: Mapping[str, Interval]

    @property
    def val(self) -> Interval:
        """Returns the validation accuracy in [0, 1]."""
        return self.means["val_accuracy"]

    @property
    def test(self) -> Interval:
        """Returns the test accuracy in [0, 1]."""
        return self.means["test_accuracy"]


@dataclass(frozen=True)
class Setting(Means):
    """A combination of levels, with the results of its trials.

    Attributes:
      number: index of the setting in the plan.
      factors: level of each factor.
      label: text that identifies the setting.
      color: color of the setting in all figures.
      planned: number of planned trials.
      done: number of trials that finished without diverging.
      diverged: number of diverged trials.
      test_by_seed: test accuracy of the done trials, in [0, 1], by seed.
      means: mean and interval over the done trials, by name of a numeric column of the results.
    """

    number: int
    factors: Mapping[str, Any]
    label: str
    color: str
    planned: int
    done: int
    diverged: int
    test_by_seed: Mapping[int, float]
    means: Mapping[str, Interval]


def summarize_settings(plan: Mapping[str, Any], results: "pd.DataFrame") -> list[Setting]:
    """Returns the settings, with the number of their trials and the means over done trials."""
    labels = setting_labels(plan["factors"], plan["settings"])
    colors = setting_colors(plan["factors"], plan["settings"])
    columns = [name for name, column in columns_of(results.columns).items() if column.is_number]
    settings = []
    for i, factors in enumerate(plan["settings"]):
        interrupts.check()
        rows = results[results["setting"] == i]
        done = rows[rows["status"] == "done"]
        tested = done.dropna(subset="test_accuracy")
        settings.append(
            Setting(
                number=i,
                factors=factors,
                label=labels[i],
                color=colors[i],
                planned=sum(trial["setting"] == i for trial in plan["trials"]),
                done=len(done),
                diverged=int((rows["status"] == "diverged").sum()),
                test_by_seed=dict(zip(tested["seed"], tested["test_accuracy"])),
                means={name: mean_interval(done[name].to_numpy()) for name in columns},
            )
        )
    return settings


def chosen_setting(settings: Sequence[Setting]) -> Setting | None:
    """Returns the setting with the highest mean validation accuracy (the first on ties); None if no trial is done."""
    return max((s for s in settings if s.val.num_values), key=lambda s: s.val.mean, default=None)


def levels_of(factor: str, settings: Sequence[Setting]) -> list[Any]:
    """Returns the distinct levels of a factor, in the order of the settings."""
    return distinct([setting.factors.get(factor) for setting in settings])


def seeds_text(counts: Iterable[int]) -> str:
    """Returns the range of the numbers of seeds `counts`, such as '4 to 5 seeds'; zeros are ignored."""
    numbers = sorted(set(counts) - {0})
    if not numbers:
        return "no seeds"
    return plural(numbers[0], "seed") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"
