"""Averages of a study's networks (soups), and the line from each back to the network it started from."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.events import Working
from jaxft.recipes.interpolation import HEADS, line_rows
from jaxft.recipes.scorer import Scorer, Weights, final_weights, finite_or_none, measure_once

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.store.records import Store
    from jaxft.study.planned import Plan, PlannedTrial
    from jaxft.study.work import Work


@dataclass(frozen=True)
class Soups:
    """The accuracy of averages of networks, and along the lines to the networks that they started from.

    Attributes:
      soups: a row for each set of networks with the same initial weights and the same split. `networks` is how many
        there are, `in_greedy` how many of them the greedy soup has. Accuracies in [0, 1]: `val_single` of the network
        that is best on validation, `val_uniform` of the average of all, `val_greedy` of the greedy soup, and the same
        with `test_`; `mean_val_accuracy` and `mean_test_accuracy` are means over the networks.
      lines: a row for each network and point: `trial`, `setting`, `seed`, `alpha` (0: initial weights, 1: final
        weights), `chosen`, `val_accuracy`, and `test_accuracy`, which is None except at the chosen point and at 1.
      skipped: sets of networks that were left out, and why, as sentences.
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
    """Returns soups of a finished study's networks, and accuracy along the line from each to its initial weights.

    A set of networks agrees in all factors except `over`, and has all their seeds. Its soups are the average of all,
    and the greedy soup (Wortsman et al. 2022a). The networks must have the same initial weights and the same split, so
    the study must pin the split (`streams.split`). On each line (WiSE-FT, Wortsman et al. 2022b) the best point is
    selected on validation (of equals the one nearest to the final weights) and tested. Test images are read once for
    each soup and line: results are kept in the work directory, and a second call reads them.

    Batch-norm statistics that were updated in training are estimated again from the training images
    (`jaxft.analysis.averaging`).

    Args:
      workdir: the work directory of a finished study that kept its weights.
      over: factors to average over.
      num_alphas: points on each line, 2 or more.
      head: 'start' interpolates the head too; that suits networks whose initial head is not random. With 'final' all
        points have the fine-tuned head, and only the body is interpolated.
      quiet: whether to print no progress on standard error.

    Raises:
      UserError: there is no finished study, it kept no weights, or nothing in it can be averaged.
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
        raise UserError(f"alphas is {num_alphas}; a line has two points or more.")
    store = Store.open(workdir)
    study = from_dict(Study, store.plan()["config"])
    for name in over:
        if name not in study.factor_names():
            raise UserError(
                f"{name!r} is no factor of this study{did_you_mean(name, study.factor_names())}; "
                f"it has {', '.join(study.factor_names()) or 'none'}."
            )
    keep_compiled()
    with Progress(quiet) as progress:
        plan = make_plan(study, progress)
        work = Work(plan, store, make_services(study.execution, progress))
        with convolution.use(study.execution.cpu_convolution):
            check_convolution(store)
            return _measure(work, over, np.linspace(0, 1, num_alphas).tolist(), head)


def _measure(work: "Work", over: Sequence[str], alphas: Sequence[float], head: str) -> Soups:
    import pandas as pd

    trials = _trials_with_weights(work.plan, work.store)
    if not trials:
        raise UserError(
            f"{str(work.store.workdir)!r} has no final weights of a trained network; finish the study with "
            "'execution.keep_weights' \"all\"."
        )
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    for levels, members in _sets(work.plan, trials, over):
        reason = _why_not(members)
        if reason:
            skipped.append(f"no soup of {_named(levels)}: {reason}.")
        else:
            rows.append(levels | soup_row(work, members))
    lines = [row for trial in trials for row in line_rows(work, trial, alphas, head)]
    return Soups(pd.DataFrame(rows), pd.DataFrame(lines), tuple(dict.fromkeys(skipped)))


def _trials_with_weights(plan: "Plan", store: "Store") -> "list[PlannedTrial]":
    """Returns the trials that are done and whose final weights are stored."""
    with_weights = []
    for trial in plan.trials:
        record = store.read("trials", trial.digest)
        if record is not None and record["status"] == "done" and store.weights_path(trial.digest).is_file():
            with_weights.append(trial)
    return with_weights


def _sets(
    plan: "Plan", trials: "Sequence[PlannedTrial]", over: Sequence[str]
) -> "list[tuple[dict[str, Any], list[PlannedTrial]]]":
    """Returns (levels, trials) for each set of trials that agree in the levels of all factors except `over`."""
    sets: dict[str, tuple[dict[str, Any], list[PlannedTrial]]] = {}
    for trial in trials:
        levels = {name: level for name, level in plan.levels(trial.trial).items() if name not in over}
        sets.setdefault(repr(levels), (levels, []))[1].append(trial)
    return list(sets.values())


def _why_not(members: "Sequence[PlannedTrial]") -> str:
    """Returns why networks cannot be averaged, or an empty string."""
    if len(members) < 2:
        return "it is one network"
    if len({(trial.model, trial.size_px) for trial in members}) > 1:
        return "they are of several architectures"
    if len({trial.initial_values_key(trial.backbone) for trial in members}) > 1:
        return "they start from different weights, whose average is of no use"
    if len({trial.split.digest for trial in members}) > 1:
        return "each has its own split, so one may be tested on what another was trained on; pin it: streams.split 0"
    if len({(trial.images.fingerprint, trial.program.test_crops) for trial in members}) > 1:
        return "they see other pictures, or the same otherwise"
    if len({trial.program.phases[-1].tracked for trial in members}) > 1:
        return "some tracked batch-norm statistics that others froze"
    if not len(members[0].split.val):
        return "there are no images to select on"
    return ""


def _named(levels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {level}" for name, level in levels.items()) or "the study"


def soup_row(work: "Work", members: "Sequence[PlannedTrial]") -> dict[str, Any]:
    """Returns the row of `Soups.soups` of some networks, without their levels."""
    identity = {"analysis": "soup", "trials": [trial.digest for trial in members]}
    measured = measure_once(work, identity, lambda: _measure_soup(work, members))
    return {name: value for name, value in measured.items() if name not in identity}


def _measure_soup(work: "Work", members: "Sequence[PlannedTrial]") -> dict[str, Any]:
    from jaxft.analysis.averaging import average, greedy_soup

    work.emit(Working(f"soup of {len(members)} networks"))
    scorer = Scorer.of(work, members[0])
    weights = [final_weights(work, trial) for trial in members]
    records = [work.store.read("trials", trial.digest) or {} for trial in members]

    def averaged(chosen: Sequence[int]) -> Weights:
        params, batch_stats = (average([weights[i][kind] for i in chosen]) for kind in (0, 1))
        return params, scorer.recalibrated(params, batch_stats)

    val_accuracy = [record["val_accuracy"] for record in records]
    chosen, val_greedy = greedy_soup(val_accuracy, lambda some: scorer.accuracy(*averaged(some), "val"))
    best, uniform = chosen[0], averaged(range(len(members)))
    if len(chosen) == 1:
        test_greedy = records[best]["test_accuracy"]
    else:
        test_greedy = finite_or_none(scorer.accuracy(*averaged(chosen), "test"))
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
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
