"""Settings of a study with the means over their trials."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxft.analysis.statistics import Interval, mean_interval
from jaxft.report.colors import setting_colors
from jaxft.report.labels import setting_labels
from jaxft.report.levels import distinct
from jaxft.store.columns import columns_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Setting:
    """One combination of levels, with the results of its trials.

    Attributes:
      number: its place in the plan; factors: its level of each factor.
      label: text that tells it from the others; color: its color in all figures.
      planned, done, diverged: numbers of trials.
      test_by_seed: test accuracy in [0, 1] of the trials that are done, by seed.
      means: mean and interval over the trials that are done of each numeric column of the results, by its name.
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

    @property
    def val(self) -> Interval:
        """Returns the validation accuracy in [0, 1]."""
        return self.means["val_accuracy"]

    @property
    def test(self) -> Interval:
        """Returns the test accuracy in [0, 1]."""
        return self.means["test_accuracy"]


def summarize_settings(plan: Mapping[str, Any], results: "pd.DataFrame") -> list[Setting]:
    """Returns each setting with its counts and the intervals over its trials that are done."""
    labels = setting_labels(plan["factors"], plan["settings"])
    colors = setting_colors(plan["factors"], plan["settings"])
    columns = [name for name, column in columns_of(results.columns).items() if column.is_number]
    settings = []
    for i, factors in enumerate(plan["settings"]):
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
    """Returns the setting with the highest mean validation accuracy (the first of equals), if any has one."""
    return max((s for s in settings if s.val.num_values), key=lambda s: s.val.mean, default=None)


def levels_of(factor: str, settings: Sequence[Setting]) -> list[Any]:
    """Returns the levels that a factor has in the settings."""
    return distinct([setting.factors.get(factor) for setting in settings])


def seeds_text(counts: Iterable[int]) -> str:
    """Returns over how many seeds means are, such as '4 to 5 seeds', from the number of each mean."""
    numbers = sorted(set(counts) - {0})
    many = " to ".join(dict.fromkeys(str(number) for number in (numbers[0], numbers[-1]))) if numbers else "no"
    return f"{many} seed{'' if numbers == [1] else 's'}"
