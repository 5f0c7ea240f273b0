"""The arms of a study, each at the levels selected on validation, and the differences between arms.

An arm is a combination of levels of the factors outside `select_over`. In each arm, every seed selects one of its
trials: the one with the highest validation accuracy, with ties broken by the lowest validation loss, then by the order
of the plan. The test accuracy of this trial counts. So each seed repeats the whole protocol on a separate split, and
the interval over seeds includes the variance of selection. A single level for all seeds, selected by the mean over
seeds, would use the validation images of all seeds and hide this variance.

Diverged trials are never selected. A seed counts once all of its trials have finished.
"""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from jaxft.analysis.statistics import Difference, Interval, holm, mean_interval, paired_difference
from jaxft.core import interrupts
from jaxft.core.errors import UserError
from jaxft.core.text import some_of
from jaxft.report.colors import arm_colors
from jaxft.report.labels import level_labels, setting_labels
from jaxft.report.levels import distinct, level_key
from jaxft.report.settings import Means
from jaxft.store.columns import metric_of
from jaxft.store.records import Store

MAX_ARMS_IN_PAIRS = 6


@dataclass(frozen=True)
class Arm(Means):
    """The settings that differ only in levels of the factors in `select_over`.

    Attributes:
      number: index of the arm.
      factors: level of each factor outside `select_over`.
      label: text that identifies the arm.
      color: color of the arm in all figures.
      num_levels: number of settings in the arm.
      planned: number of planned seeds.
      diverged: number of seeds whose trials all diverged.
      selected: row of the results that each seed selected, by seed.
      means: mean and interval over the selected rows, by name of a metric column.
    """

    number: int
    factors: Mapping[str, Any]
    label: str
    color: str
    num_levels: int
    planned: int
    diverged: int
    selected: Mapping[int, Mapping[str, Any]]
    means: Mapping[str, Interval]

    @property
    def test_by_seed(self) -> dict[int, float]:
        """Returns the test accuracy of the selected trial of each seed, in [0, 1]."""
        return {seed: row["test_accuracy"] for seed, row in self.selected.items()}


class Contrast(NamedTuple):
    """Test accuracy of the first arm minus that of the second, paired by seed.

    `p_adjusted` is the p-value after Holm's correction for all contrasts of the study.
    """

    first: Arm
    second: Arm
    difference: Difference
    p_adjusted: float


def select_over(plan: Mapping[str, Any]) -> list[str]:
    """Returns the factors whose levels are selected on validation, in the order of the factors of the study."""
    selected = plan["config"].get("select_over") or []
    return [name for name in plan["factors"] if name in selected]


def arms_of(store: Store, plan: Mapping[str, Any], results: pd.DataFrame) -> list[Arm]:
    """Returns the arms in the order of their first settings; empty if the study has no `select_over`."""
    over = select_over(plan)
    if not over:
        return []
    others = [name for name in plan["factors"] if name not in over]
    members: dict[str, list[int]] = {}
    for i, factors in enumerate(plan["settings"]):
        members.setdefault(level_key([factors.get(name) for name in others]), []).append(i)
    firsts = [plan["settings"][numbers[0]] for numbers in members.values()]
    labels = setting_labels(others, firsts)
    colors = arm_colors(len(members))
    row_of = dict(zip(results["trial"], results.to_dict("records")))
    metrics = [name for name in results.columns if metric_of(name)]
    arms = []
    for i, numbers in enumerate(members.values()):
        interrupts.check()
        trials: dict[int, list[str]] = {}
        for trial in plan["trials"]:
            if trial["setting"] in numbers:
                trials.setdefault(trial["seed"], []).append(trial["trial"])
        rows = {seed: [row_of.get(digest, {}) for digest in digests] for seed, digests in trials.items()}
        finished = {s: r for s, r in rows.items() if all(row.get("status") in ("done", "diverged") for row in r)}
        selected = {s: row for s, r in finished.items() if (row := select(store, r)) is not None}
        arms.append(
            Arm(
                number=i,
                factors={name: firsts[i].get(name) for name in others},
                label=labels[i],
                color=colors[i],
                num_levels=len(numbers),
                planned=len(trials),
                diverged=len(finished) - len(selected),
                selected=selected,
                means={name: mean_interval([row[name] for row in selected.values()]) for name in metrics},
            )
        )
    return arms


def select(store: Store, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the row that is selected on validation among finished trials; None if all of them diverged."""
    done = [row for row in rows if row["status"] == "done"]
    best = max((row["val_accuracy"] for row in done), default=math.nan)
    tied = [row for row in done if row["val_accuracy"] == best]
    if len(tied) > 1:
        return min(tied, key=lambda row: val_loss(store, row))
    return tied[0] if tied else None


def val_loss(store: Store, row: Mapping[str, Any]) -> float:
    """Returns the validation loss of a trial at its selected epoch, or infinity if it is not recorded.

    For a classifier of features, it is the loss at the selected penalty or number of neighbors.
    """
    arrays = store.arrays("trials", row["trial"])
    if "val_loss_by_level" in arrays:
        return float(arrays["val_loss_by_level"][arrays["val_accuracy_by_level"] == row["val_accuracy"]].min())
    losses = arrays["val_loss"][arrays["epoch"] == row["selected_epoch"]]
    return float(losses[0]) if len(losses) else math.inf


def open_arms(store: Store) -> list[Arm]:
    """Returns the arms of a study.

    Raises:
      UserError: if the study has no `select_over`.
    """
    plan = store.plan()
    arms = arms_of(store, plan, store.results())
    if not arms:
        raise UserError(
            f"the study in {str(store.workdir)!r} selects no factor on validation; add one of "
            f"{some_of(plan['factors'], 3) or 'its factors (it has none)'} to 'select_over' and run the study again: "
            "finished trials are reused."
        )
    return arms


def load_selected(workdir: str | os.PathLike[str]) -> pd.DataFrame:
    """Returns the trials that were selected on validation, with one row per arm and seed.

    The columns are those of `load_results`, after a first column `arm`: the levels of the factors outside
    `select_over`.

    Raises:
      UserError: if the directory contains no study, or the study has no `select_over`.

    Example:
      load_selected("runs/scenes").groupby("arm")["test_accuracy"].mean()
    """
    store = Store.open(workdir)
    return selected_results(open_arms(store), store.results())


def selected_results(arms: Iterable[Arm], results: pd.DataFrame) -> pd.DataFrame:
    """Returns the selected rows of the results, ordered by arm and seed, after a column with the label of the arm."""
    labels = {row["trial"]: arm.label for arm in arms for _, row in sorted(arm.selected.items())}
    rows = results.set_index("trial", drop=False).loc[list(labels)].reset_index(drop=True)
    rows.insert(0, "arm", list(labels.values()))
    return rows


def arm_pairs(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Returns all pairs of up to six arms; with more arms, each arm with the first."""
    with_first = [(arm, arms[0]) for arm in arms[1:]]
    return with_first if len(arms) > MAX_ARMS_IN_PAIRS else list(itertools.combinations(arms, 2))


def contrasts_of(arms: Sequence[Arm]) -> list[Contrast]:
    """Returns the differences between the arms of each pair in `arm_pairs`."""
    pairs = arm_pairs(arms)
    differences = [paired_difference(first.test_by_seed, second.test_by_seed) for first, second in pairs]
    adjusted = holm([difference.p_value for difference in differences])
    return [Contrast(*pair, difference, p) for pair, difference, p in zip(pairs, differences, adjusted)]


def selected_text(arm: Arm, over: Sequence[str], arms: Sequence[Arm]) -> str:
    """Returns how many seeds selected each level, such as '0.01 (3), 0.1 (2)', most frequent first."""
    rows = [row for other in arms for row in other.selected.values()]
    labels = {name: level_labels(distinct([row[name] for row in rows])) for name in over}
    texts = [" · ".join(labels[name][level_key(row[name])] for name in over) for row in arm.selected.values()]
    counts = sorted(((texts.count(text), text) for text in dict.fromkeys(texts)), key=lambda pair: -pair[0])
    return ", ".join(f"{text} ({count})" for count, text in counts)
