"""The line from a trial's initial weights to its final weights (WiSE-FT; Wortsman et al. 2022b)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxft.core.events import Working
from jaxft.recipes.scorer import Scorer, Weights, final_weights, finite_or_none, measure_once

if TYPE_CHECKING:
    from jaxft.study.planned import PlannedTrial
    from jaxft.study.work import Work

HEADS = ("start", "final")


@dataclass(frozen=True, eq=False)
class Line:
    """The line from the initial weights of a trial (alpha 0) to its final weights (alpha 1)."""

    scorer: Scorer
    start: Weights
    end: Weights

    @classmethod
    def of(cls, work: "Work", trial: "PlannedTrial", head: str) -> "Line":
        """Returns the line of a trial. If `head` is 'final', all points have the fine-tuned head."""
        scorer, (params, batch_stats) = Scorer.of(work, trial), final_weights(work, trial)
        start = dict(scorer.lane.params)
        if head == "final":
            start |= {name: params[name] for name in start if trial.model.in_head(name)}
        return cls(scorer, (start, scorer.lane.batch_stats), (params, batch_stats))

    def at(self, alpha: float) -> Weights:
        """Returns the weights at a point of the line, with batch-norm statistics of their own."""
        from jaxft.analysis.averaging import interpolate

        if alpha == 1:
            return self.end
        params, batch_stats = (interpolate(start, end, alpha) for start, end in zip(self.start, self.end, strict=True))
        return params, self.scorer.recalibrated(params, batch_stats)


def line_rows(work: "Work", trial: "PlannedTrial", alphas: Sequence[float], head: str) -> list[dict[str, Any]]:
    """Returns a row for each point of a trial's line; test accuracy at the selected point and at the end only."""
    record = work.store.read("trials", trial.digest) or {}
    identity = {"analysis": "line", "trials": [trial.digest], "alphas": list(alphas), "head": head}
    measured = measure_once(work, identity, lambda: _measure_line(work, trial, alphas, head, record))
    levels = [list(setting.items()) for setting in work.plan.settings]
    setting = levels.index(list(work.plan.levels(trial.trial).items()))
    rows = []
    for alpha, val_accuracy in zip(alphas, measured["val_accuracy"], strict=True):
        is_chosen = alpha == measured["alpha"]
        test_accuracy = measured["test_accuracy"] if is_chosen else None
        rows.append(
            {
                "trial": trial.digest,
                "setting": setting,
                "seed": trial.trial.seed,
                "alpha": alpha,
                "chosen": is_chosen,
                "val_accuracy": val_accuracy,
                "test_accuracy": record["test_accuracy"] if alpha == 1 else test_accuracy,
            }
        )
    return rows


def _measure_line(
    work: "Work", trial: "PlannedTrial", alphas: Sequence[float], head: str, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns validation accuracy at each point, the best point (of equals the last), and its test accuracy."""
    line = Line.of(work, trial, head)
    val_accuracy = []
    for i, alpha in enumerate(alphas):
        work.emit(Working(f"line of trial {trial.digest}: {i + 1} of {len(alphas)} points"))
        val_accuracy.append(finite_or_none(line.scorer.accuracy(*line.at(alpha), "val")))
    known = [(value, alpha) for value, alpha in zip(val_accuracy, alphas, strict=True) if value is not None]
    chosen = max(known)[1] if known else None
    test_accuracy = None
    if chosen == 1:
        test_accuracy = record["test_accuracy"]
    elif chosen is not None:
        test_accuracy = finite_or_none(line.scorer.accuracy(*line.at(chosen), "test"))
    return {"val_accuracy": val_accuracy, "alpha": chosen, "test_accuracy": test_accuracy}
