"""Interpolation between the initial and the final weights of a trial (WiSE-FT; Wortsman et al. 2022b)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxft.core.events import Working
from jaxft.core.json_values import finite_or_none
from jaxft.study.scorer import Scorer, Weights, final_weights, measure_once

if TYPE_CHECKING:
    from jaxft.study.planned import PlannedTrial
    from jaxft.study.work import Work

HEADS = ("start", "final")


@dataclass(frozen=True, eq=False)
class Line:
    """The line between the initial weights of a trial (alpha 0) and its final weights (alpha 1).

    Attributes:
      scorer: evaluates weights on the images of the trial.
      start: the initial weights.
      end: the final weights.
    """

    scorer: Scorer
    start: Weights
    end: Weights

    @classmethod
    def of(cls, work: "Work", trial: "PlannedTrial", head: str) -> "Line":
        """Returns the line of a trial.

        Args:
          work: the study, with its store.
          trial: the trial.
          head: one of `HEADS`. With 'start', the head is interpolated too. With 'final', all points have the
            fine-tuned head.
        """
        scorer, (params, batch_stats) = Scorer.of(work, trial), final_weights(work, trial)
        start = dict(scorer.arrays.params)
        if head == "final":
            start |= {name: params[name] for name in start if trial.model.in_head(name)}
        return cls(scorer, (start, scorer.arrays.batch_stats), (params, batch_stats))

    def at(self, alpha: float) -> Weights:
        """Returns the weights at a point of the line. Updated batch-norm statistics are recalibrated for this point."""
        from jaxft.analysis.averaging import interpolate

        if alpha == 1:
            return self.end
        params, batch_stats = (interpolate(start, end, alpha) for start, end in zip(self.start, self.end, strict=True))
        return params, self.scorer.recalibrated(params, batch_stats)


def line_rows(work: "Work", trial: "PlannedTrial", alphas: Sequence[float], head: str) -> list[dict[str, Any]]:
    """Returns one row per point of the line of a trial. Only the selected point and the end have a test accuracy.

    Args:
      work: the study, with its store.
      trial: the trial.
      alphas: the points, in increasing order, from 0 to 1.
      head: one of `HEADS`.
    """
    record = work.store.read("trials", trial.digest) or {}
    identity = {"analysis": "line", "trials": [trial.digest], "alphas": list(alphas), "head": head}
    measured = measure_once(work, identity, lambda: _measure_line(work, trial, alphas, head, record))
    settings = [list(levels.items()) for levels in work.plan.settings]
    setting = settings.index(list(work.plan.levels(trial.trial).items()))
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
    """Returns the validation accuracy at each point, the best point (the last one in a tie), and its test accuracy."""
    line = Line.of(work, trial, head)
    val_accuracy = []
    for i, alpha in enumerate(alphas):
        work.emit(Working(f"line of trial {trial.digest}: {i + 1} of {len(alphas)} points"))
        val_accuracy.append(finite_or_none(line.scorer.accuracy(*line.at(alpha), "val")))
    scored = [(value, alpha) for value, alpha in zip(val_accuracy, alphas, strict=True) if value is not None]
    chosen = max(scored)[1] if scored else None
    test_accuracy = None
    if chosen == 1:
        test_accuracy = record["test_accuracy"]
    elif chosen is not None:
        test_accuracy = finite_or_none(line.scorer.accuracy(*line.at(chosen), "test"))
    return {"val_accuracy": val_accuracy, "alpha": chosen, "test_accuracy": test_accuracy}
