"""Runs the analyses of a study that its store lacks."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from jaxft import config as cfg
from jaxft.core import events, interrupts
from jaxft.core.json_values import finite_or_none
from jaxft.core.registries import ANALYSES
from jaxft.core.text import plural
from jaxft.study.analyses.analysis import Analysis, TrainedTrial, snapshot_paths
from jaxft.study.planned import Plan, PlannedTrial
from jaxft.study.stored_weights import is_whole
from jaxft.study.work import Work


def run_analyses(work: Work) -> None:
    """Runs the analyses of `config.analyses` for the finished trials whose final weights are stored.

    A result is stored under the digest of the analysis and its trials, so it is measured once. An analysis that skips
    trials reports how many, and why.

    Raises:
      jaxft.core.interrupts.Stopped: the process received a signal to stop; the finished results are stored.
    """
    for name in work.plan.study.analyses:
        analysis = ANALYSES[name].value
        trials = _usable_trials(work, name, analysis)
        subjects = list(_pairs(work.plan, trials) if analysis.of_pairs else ((trial,) for trial in trials))
        opened: dict[str, TrainedTrial] = {}
        for i, subject in enumerate(subjects):
            interrupts.check()
            work.emit(events.Working(f"the analysis {name!r}: {i + 1} of {len(subjects)}"))
            opened = {t.digest: opened.get(t.digest) or TrainedTrial(work, t) for t in subject}
            _measure_once(work, name, analysis, [opened[t.digest] for t in subject])


def _usable_trials(work: Work, name: str, analysis: Analysis) -> list[PlannedTrial]:
    """Returns the finished trials with stored weights and sufficient validation images."""
    done = [t for t in work.plan.trials if (work.store.read("trials", t.digest) or {}).get("status") == "done"]
    networks = [trial for trial in done if trial.feature_classifier is None]
    stored = [trial for trial in networks if is_whole(work.store.weights_path(trial.digest))]
    evaluable = [trial for trial in stored if len(trial.split.val) >= analysis.min_images]
    usable = [trial for trial in evaluable if not analysis.needs_snapshots or _has_snapshots(work, trial)]
    reasons = (
        (len(done) - len(networks), "are classifiers of features"),
        (len(networks) - len(stored), "have no stored weights; set execution.keep_weights to 'all'"),
        (
            len(stored) - len(evaluable),
            f"have fewer than {plural(analysis.min_images, 'validation image')}; set target.val_per_class",
        ),
        (
            len(evaluable) - len(usable),
            "have no snapshots, or damaged ones; set execution.snapshot_steps before the trials run",
        ),
    )
    for count, reason in reasons:
        if count:
            work.emit(events.AnalysisSkipped(f"{name} of {plural(count, 'trial')}", f"they {reason}"))
    return usable


def _has_snapshots(work: Work, trial: PlannedTrial) -> bool:
    """Returns whether a trial has a snapshot, and all requested snapshots are whole."""
    paths = snapshot_paths(work, trial)
    return len(paths) > 0 and all(map(is_whole, paths))


def _pairs(plan: Plan, trials: Sequence[PlannedTrial]) -> Iterator[tuple[PlannedTrial, PlannedTrial]]:
    """Yields all pairs of trials of each setting."""
    by_setting: dict[tuple[tuple[str, str], ...], list[PlannedTrial]] = {}
    for trial in trials:
        levels = tuple((factor, repr(level)) for factor, level in plan.levels(trial.trial).items())
        by_setting.setdefault(levels, []).append(trial)
    for members in by_setting.values():
        yield from itertools.combinations(members, 2)


def _measure_once(work: Work, name: str, analysis: Analysis, trials: Sequence[TrainedTrial]) -> None:
    """Measures and stores the rows of an analysis, unless they are stored or another process measures them."""
    identity: dict[str, Any] = {
        "analysis": name,
        "version": analysis.version,
        "of": [trial.planned.digest for trial in trials],
    }
    if analysis.needs_snapshots:
        identity["steps"] = list(work.plan.study.execution.snapshot_steps)
    digest = cfg.digest(identity)
    with work.store.claim(f"analysis-{digest}", wait=False) as is_claimed:
        if not is_claimed or work.store.has("analyses", digest):
            return
        with work.services.clock.measure("analyze"):
            rows = [[*row[:3], finite_or_none(row.value)] for row in analysis.rows(trials)]
        work.store.write("analyses", digest, {**identity, "rows": rows}, {})
