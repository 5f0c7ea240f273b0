"""Arms of a study, each at the level that was selected on validation, and the differences between them.

An arm is a combination of levels of the factors that the study does not select over (`select_over`). Every seed
selects for itself, among the trials of its arm: the one with the highest validation accuracy, of equals the one with
the lower validation loss, then the one listed first; that trial's test accuracy counts. So each seed repeats the
whole protocol, as somebody with that draw of images would go through it, and an interval over seeds covers the chance
in selecting too. One level for all seeds, by their mean, would use more images than a run has, and leave that out.

A trial that diverged is never selected. A seed counts once all of its trials have finished.
"""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from jaxft.analysis.statistics import Difference, Interval, holm, mean_interval, paired_difference
from jaxft.core.errors import UserError
from jaxft.report.colors import arm_colors
from jaxft.report.labels import level_labels, setting_labels
from jaxft.report.levels import distinct, level_key
from jaxft.store.columns import metric_of
from jaxft.store.records import Store

MOST_IN_PAIRS = 6


class Arm(NamedTuple):
    """Settings that differ in what is selected on validation alone, and by seed the row of results selected of them.

    `means` are those of the selected rows, of each column of a metric.
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
    def val(self) -> Interval:
        """Returns the validation accuracy in [0, 1]."""
        return self.means["val_accuracy"]

    @property
    def test(self) -> Interval:
        """Returns the test accuracy in [0, 1]."""
        return self.means["test_accuracy"]

    @property
    def test_by_seed(self) -> dict[int, float]:
        """Returns the test accuracy of each seed's selected trial, in [0, 1]."""
        return {seed: row["test_accuracy"] for seed, row in self.selected.items()}


class Contrast(NamedTuple):
    """Test accuracy of one arm minus another's, paired by seed, and the p-value adjusted for all contrasts (Holm)."""

    first: Arm
    second: Arm
    difference: Difference
    p_adjusted: float


def select_over(plan: Mapping[str, Any]) -> list[str]:
    """Returns the factors whose level is selected on validation, in the order of the study's factors."""
    chosen = plan["config"].get("select_over") or []
    return [name for name in plan["factors"] if name in chosen]


def arms_of(store: Store, plan: Mapping[str, Any], results: pd.DataFrame) -> list[Arm]:
    """Returns the arms in the order in which the settings name them; none where nothing is selected over."""
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
    """Returns the row of the results, of those given, that validation selects; None where all diverged."""
    done = [row for row in rows if row["status"] == "done"]
    best = max((row["val_accuracy"] for row in done), default=math.nan)
    equals = [row for row in done if row["val_accuracy"] == best]
    if len(equals) > 1:
        return min(equals, key=lambda row: val_loss(store, row))
    return equals[0] if equals else None


def val_loss(store: Store, row: Mapping[str, Any]) -> float:
    """Returns a trial's validation loss at the epoch that it kept, or a classifier's of features at its level.

    Infinity for one without.
    """
    arrays = store.arrays("trials", row["trial"])
    if "val_loss_by_level" in arrays:
        return float(arrays["val_loss_by_level"][arrays["val_accuracy_by_level"] == row["val_accuracy"]].min())
    losses = arrays["val_loss"][arrays["epoch"] == row["selected_epoch"]]
    return float(losses[0]) if len(losses) else math.inf


def open_arms(store: Store) -> list[Arm]:
    """Returns the arms of a study.

    Raises a `UserError` where it selects over no factor.
    """
    plan = store.plan()
    arms = arms_of(store, plan, store.results())
    if not arms:
        raise UserError(
            f"the study in {str(store.workdir)!r} selects over no factor; name one of "
            f"{', '.join(plan['factors']) or 'its factors (it has none)'} in 'select_over' and run it again: "
            "no trial is repeated."
        )
    return arms


def load_selected(workdir: str | os.PathLike[str]) -> pd.DataFrame:
    """Returns the trial that each seed selected on validation in each arm, as rows of `load_results`.

    In front is the column `arm`: the levels of the factors that the study does not select over (`select_over`).
    Raises a `UserError` where the study selects over no factor.
    """
    store = Store.open(workdir)
    return selected_results(open_arms(store), store.results())


def selected_results(arms: Iterable[Arm], results: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of the results that were selected, by arm and seed, with the arm's label in front."""
    labels = {row["trial"]: arm.label for arm in arms for _, row in sorted(arm.selected.items())}
    rows = results.set_index("trial", drop=False).loc[list(labels)].reset_index(drop=True)
    rows.insert(0, "arm", list(labels.values()))
    return rows


def contrasts_of(arms: Sequence[Arm]) -> list[Contrast]:
    """Returns the differences between arms: of all pairs, or, beyond six arms, of each and the first."""
    with_first = [(arm, arms[0]) for arm in arms[1:]]
    pairs = with_first if len(arms) > MOST_IN_PAIRS else list(itertools.combinations(arms, 2))
    differences = [paired_difference(first.test_by_seed, second.test_by_seed) for first, second in pairs]
    adjusted = holm([difference.p_value for difference in differences])
    return [Contrast(*pair, difference, p) for pair, difference, p in zip(pairs, differences, adjusted)]


def selected_text(arm: Arm, over: Sequence[str], arms: Sequence[Arm]) -> str:
    """Returns how often each level was selected, such as '0.01 (3), 0.1 (2)', the most frequent first."""
    rows = [row for other in arms for row in other.selected.values()]
    labels = {name: level_labels(distinct([row[name] for row in rows])) for name in over}
    texts = [" · ".join(labels[n][level_key(row[n])] for n in over) for row in arm.selected.values()]
    counts = sorted(((texts.count(text), text) for text in dict.fromkeys(texts)), key=lambda pair: -pair[0])
    return ", ".join(f"{text} ({count})" for count, text in counts)
