"""Averages of the networks of a study (soups), and interpolation between each network and its initial weights."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.events import Working
from jaxft.core.json_values import finite_or_none
from jaxft.core.text import plural, some_of
from jaxft.recipes.interpolation import HEADS, line_rows
from jaxft.study.scorer import Scorer, Weights, final_weights, measure_once

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.store.records import Store
    from jaxft.study.planned import Plan, PlannedTrial
    from jaxft.study.work import Work

MOST_NAMED = 3  # trials in a sentence


@dataclass(frozen=True)
class Soups:
    """The accuracy of averaged networks, and of networks interpolated with their initial weights.

    Attributes:
      soups: one row per set of networks with the same initial weights and the same split. `networks` is the size of the
        set, and `in_greedy` the size of its greedy soup. Validation accuracies in [0, 1]: `val_single` is the highest
        of a single network, `val_uniform` belongs to the average of all networks, `val_greedy` to the greedy soup, and
        `mean_val_accuracy` is the mean over the networks. `test_single`, `test_uniform`, `test_greedy` and
        `mean_test_accuracy` are the test accuracies of the same networks.
      lines: one row per network and point: `trial`, `setting`, `seed`, `alpha` (0: initial weights, 1: final weights),
        `chosen` (whether validation selects the point), `val_accuracy`, and `test_accuracy`, which is None except at
        the selected point and at 1.
      skipped: one sentence for each set of networks that cannot be averaged, with the reason; and one for the
        finished networks whose weights are not stored.
    """

    soups: "pd.DataFrame"
    lines: "pd.DataFrame"
    skipped: tuple[str, ...] = ()


def make_soups(
    workdir: str | os.PathLike[str],
    over: Sequence[str] = (),
    num_alphas: int = 11,
    head: str = "start",
    quiet: bool = False,
) -> Soups:
    """Returns the accuracy of soups of a finished study, and of each network interpolated with its initial weights.

    Networks that agree in all factors except `over` form a set, with all their seeds. Each set has two soups: the
    uniform soup averages all networks, and the greedy soup averages a selection of them. The networks of a set must
    have the same initial weights and the same split, so the study must fix the split (`streams.split`).

    On the line between the initial and the final weights of each network, the point with the highest validation
    accuracy is selected (the largest alpha in a tie) and tested. The work directory stores all results, so each soup
    and each line is tested only once.

    Batch-norm statistics that training updated are recomputed from the training images (`jaxft.analysis.averaging`).

    Args:
      workdir: the work directory of a finished study with stored weights.
      over: factors to average over, in addition to seeds.
      num_alphas: the number of points on each line, 2 or more.
      head: 'start' interpolates the head too, which suits networks whose initial head is not random. With 'final', all
        points have the fine-tuned head, and only the backbone is interpolated.
      quiet: whether to print no progress on standard error.

    Raises:
      UserError: there is no study, it has no stored weights, or an argument is out of bounds.

    Example:
      >>> soups = jaxft.make_soups("runs/mine", over=["training.optimizer.learning_rate"])
      >>> soups.soups[["test_single", "test_uniform", "test_greedy"]]

    Reference:
      Soups: Wortsman et al. 2022a, "Model soups", section 2 and recipe 1. Lines: Wortsman et al. 2022b, "Robust
      fine-tuning of zero-shot models" (WiSE-FT), equation 1.
    """
    import numpy as np

    from jaxft.config import Study, from_dict
    from jaxft.core.compile_cache import keep_compiled
    from jaxft.ops import convolution
    from jaxft.store.records import Store
    from jaxft.study.convolutions import check_convolution
    from jaxft.study.plan import make_plan
    from jaxft.study.services import make_services
    from jaxft.study.work import Work
    from jaxft.tracking.console import Progress

    if head not in HEADS:
        raise UserError(f"head is {head!r}; allowed: {' or '.join(map(repr, HEADS))}.")
    if num_alphas < 2:
        raise UserError(f"the number of alphas is {num_alphas}; it must be 2 or more.")
    store = Store.open(workdir)
    study = from_dict(Study, store.plan()["config"])
    for name in over:
        if name not in study.factor_names():
            raise UserError(
                f"{name!r} is not a factor of this study{did_you_mean(name, study.factor_names())}; "
                f"its factors are {', '.join(study.factor_names()) or 'none'}."
            )
    keep_compiled()
    with Progress(quiet) as progress:
        plan = make_plan(study, progress)
        work = Work(plan, store, make_services(study.execution, progress))
        with convolution.use(study.execution.cpu_convolution):
            check_convolution(store)
            return _measure(work, over, np.linspace(0, 1, num_alphas).tolist(), head)


def _measure(work: "Work", over: Sequence[str], alphas: Sequence[float], head: str) -> Soups:
    """Returns the soups and the lines of a planned study; `make_soups` describes the arguments."""
    import pandas as pd

    trials, without_weights = _finished_trials(work.plan, work.store)
    if not trials:
        raise UserError(
            f"{str(work.store.workdir)!r} has no final weights of trained networks; run the study with "
            "execution.keep_weights set to 'all'."
        )
    rows: list[dict[str, Any]] = []
    skipped = [_without_weights_text(without_weights)] if without_weights else []
    for levels, members in _sets(work.plan, trials, over):
        reason = _obstacle(members)
        if reason:
            skipped.append(f"no soup of {_levels_text(levels)}: {reason}.")
        else:
            rows.append(levels | soup_row(work, members))
    lines = [row for trial in trials for row in line_rows(work, trial, alphas, head)]
    return Soups(pd.DataFrame(rows), pd.DataFrame(lines), tuple(dict.fromkeys(skipped)))


def _finished_trials(plan: "Plan", store: "Store") -> "tuple[list[PlannedTrial], list[PlannedTrial]]":
    """Returns the finished trials with stored final weights, and those without."""
    with_weights: list[PlannedTrial] = []
    without_weights: list[PlannedTrial] = []
    for trial in plan.trials:
        record = store.read("trials", trial.digest)
        if record is not None and record["status"] == "done" and trial.feature_classifier is None:
            has_weights = store.weights_path(trial.digest).is_file()
            (with_weights if has_weights else without_weights).append(trial)
    return with_weights, without_weights


def _without_weights_text(trials: "Sequence[PlannedTrial]") -> str:
    """Returns a sentence about finished trials whose weights are not stored."""
    digests = some_of([trial.digest for trial in trials], MOST_NAMED)
    return (
        f"the soups and lines leave out {plural(len(trials), 'finished trial')} without stored weights ({digests}); "
        "execution.keep_weights = 'all' keeps them."
    )


def _sets(
    plan: "Plan", trials: "Sequence[PlannedTrial]", over: Sequence[str]
) -> "list[tuple[dict[str, Any], list[PlannedTrial]]]":
    """Returns (levels, trials) for each set of trials that agree in the levels of all factors except `over`."""
    sets: dict[str, tuple[dict[str, Any], list[PlannedTrial]]] = {}
    for trial in trials:
        levels = {name: level for name, level in plan.levels(trial.trial).items() if name not in over}
        sets.setdefault(repr(levels), (levels, []))[1].append(trial)
    return list(sets.values())


def _obstacle(members: "Sequence[PlannedTrial]") -> str:
    """Returns why networks cannot be averaged, or an empty string if they can."""
    if len(members) < 2:
        return "there is only one network"
    if len({(trial.model, trial.size_px) for trial in members}) > 1:
        return "the networks have different architectures or input sizes"
    if len({trial.initial_values_key(trial.backbone) for trial in members}) > 1:
        return "the networks have different initial weights, so their average is not a useful network"
    if len({trial.split.digest for trial in members}) > 1:
        return (
            "the networks have different splits, so test images of one may be training images of another; set "
            "config.streams.split = 0 in the study"
        )
    if len({(trial.images.fingerprint, trial.program.test_crops) for trial in members}) > 1:
        return "the networks have different images or test crops"
    if len({trial.program.phases[-1].tracked for trial in members}) > 1:
        return "only some of the networks updated batch-norm statistics"
    if not len(members[0].split.val):
        return "the study has no validation images"
    return ""


def _levels_text(levels: Mapping[str, Any]) -> str:
    """Returns the levels of factors as text, or 'the study' if there are no factors."""
    return ", ".join(f"{name} = {level}" for name, level in levels.items()) or "the study"


def soup_row(work: "Work", members: "Sequence[PlannedTrial]") -> dict[str, Any]:
    """Returns the row of `Soups.soups` for a set of networks, without the levels of the factors."""
    identity = {"analysis": "soup", "trials": [trial.digest for trial in members]}
    measured = measure_once(work, identity, lambda: _measure_soup(work, members))
    return {name: value for name, value in measured.items() if name not in identity}


def _measure_soup(work: "Work", members: "Sequence[PlannedTrial]") -> dict[str, Any]:
    """Returns the accuracy of the networks and of their soups."""
    from jaxft.analysis.averaging import average, greedy_soup

    work.emit(Working(f"soup of {len(members)} networks"))
    scorer = Scorer.of(work, members[0])
    weights = [final_weights(work, trial) for trial in members]
    records = [work.store.read("trials", trial.digest) or {} for trial in members]

    def soup(indices: Sequence[int]) -> Weights:
        params, batch_stats = (average([weights[i][kind] for i in indices]) for kind in (0, 1))
        return params, scorer.recalibrated(params, batch_stats)

    val_accuracy = [record["val_accuracy"] for record in records]
    chosen, val_greedy = greedy_soup(val_accuracy, lambda indices: scorer.accuracy(*soup(indices), "val"))
    best, uniform = chosen[0], soup(range(len(members)))
    if len(chosen) == 1:
        test_greedy = records[best]["test_accuracy"]
    else:
        test_greedy = finite_or_none(scorer.accuracy(*soup(chosen), "test"))
    return {
        "networks": len(members),
        "in_greedy": len(chosen),
        "mean_val_accuracy": sum(val_accuracy) / len(val_accuracy),
        "val_single": val_accuracy[best],
        "val_uniform": scorer.accuracy(*uniform, "val"),
        "val_greedy": val_greedy,
        "mean_test_accuracy": _mean([record["test_accuracy"] for record in records]),
        "test_single": records[best]["test_accuracy"],
        "test_uniform": finite_or_none(scorer.accuracy(*uniform, "test")),
        "test_greedy": test_greedy,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that are not None, or None if all are None."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
