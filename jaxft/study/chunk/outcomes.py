"""Results of trials: the test images are evaluated once, with the selected weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from jaxft.core.metrics import METRICS, record_fields
from jaxft.study.chunk.chunk_state import ChunkState
from jaxft.study.chunk.evaluation import Scores, evaluate
from jaxft.study.chunk.lanes import Chunk, Lane, Outcome, curve_names
from jaxft.study.chunk.phase_data import PhaseData
from jaxft.study.chunk.recalibration import check_frozen, recalibrate
from jaxft.training.adapters import merge
from jaxft.training.state import Flat


@dataclass(frozen=True)
class TrialVariables:
    """All variables of a trial, trained and frozen, as flat dicts."""

    params: Flat
    batch_stats: Flat


def read_outcomes(
    chunk: Chunk,
    phase_data: PhaseData,
    chunk_state: ChunkState,
    final_variables: Sequence[TrialVariables],
    seconds: float,
) -> list[Outcome]:
    """Evaluates the test images once, with the selected weights, and returns the outcomes of the trials.

    Args:
      chunk: the trials.
      phase_data: images and labels of the last phase.
      chunk_state: the state after the last phase.
      final_variables: the variables of each trial after the last phase; leaves of the selected epoch replace them.
      seconds: seconds of one trial.
    """
    (params, batch_stats), val_scores = chunk_state.best, None
    if chunk.program.phases[-1].recalibrates:
        batch_stats = recalibrate(chunk, phase_data, params, batch_stats)
        val_scores = evaluate(chunk, phase_data, params, batch_stats, "val")
    test_scores = evaluate(chunk, phase_data, params, batch_stats, "test")
    params, batch_stats = jax.device_get((params, batch_stats))
    outcomes = []
    for i, final in enumerate(final_variables):
        selected = TrialVariables(
            final.params | {name: leaf[i] for name, leaf in params.items()},
            final.batch_stats | {name: leaf[i] for name, leaf in batch_stats.items()},
        )
        outcomes.append(_outcome(chunk, chunk_state, i, selected, FinalScores(val_scores, test_scores, seconds)))
    return outcomes


class FinalScores(NamedTuple):
    """Scores of a chunk after its last phase, and the seconds of one trial.

    `val_scores` is None unless batch-norm statistics are recalibrated.
    """

    val_scores: Scores | None
    test_scores: Scores
    seconds: float


def _outcome(chunk: Chunk, chunk_state: ChunkState, i: int, selected: TrialVariables, scores: FinalScores) -> Outcome:
    """Returns the outcome of trial `i`."""
    lane, program, val_scores, test_scores = chunk.lanes[i], chunk.program, scores.val_scores, scores.test_scores
    check_frozen(lane.batch_stats, selected.batch_stats, {name for p in program.phases for name in p.tracked})
    diverged = bool(chunk_state.diverged[i]) or not test_scores.finite[i]
    no_val, no_test = diverged or not len(lane.val), diverged or not len(lane.test)
    curves = {name: chunk_state.history[i, :, j] for j, name in enumerate(curve_names())}
    epoch = int(chunk_state.best_epoch[i])
    epoch_metrics = {name: float(curves[f"val_{name}"][epoch]) for name in METRICS}
    val = epoch_metrics if val_scores is None else val_scores.metrics_of(i)
    return Outcome(
        params=plain_params(selected.params, lane),
        batch_stats=selected.batch_stats,
        curves={"epoch": np.array(program.epochs), **curves},
        diverged=diverged,
        selected_epoch=None if diverged else program.epochs[epoch],
        metrics=record_fields(None if no_val else val, None if no_test else test_scores.metrics_of(i)),
        test_predictions=test_scores.predictions[i],
        seconds=scores.seconds,
    )


def plain_params(params: Flat, lane: Lane) -> Flat:
    """Returns the parameters of a network, with LoRA factors merged into their kernels."""
    return merge(params, params, lane.hparams.lora_scale)
