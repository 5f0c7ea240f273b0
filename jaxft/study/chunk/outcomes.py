"""What became of trials: the test images, read once with the selected weights."""

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
    """All variables of a trial, flat, as they are after the last phase: trained ones and frozen ones."""

    params: Flat
    batch_stats: Flat


def read_outcomes(
    chunk: Chunk, phase_data: PhaseData, chunk_state: ChunkState, ends: Sequence[TrialVariables], seconds: float
) -> list[Outcome]:
    """Evaluates on the test images, once, with the selected weights, and returns the outcomes of the trials.

    Args:
      ends: the variables of each trial after the last phase; the selected ones take their place.
      seconds: how long a trial took.
    """
    (params, batch_stats), of_val = chunk_state.best, None
    if chunk.program.phases[-1].recalibrates:
        batch_stats = recalibrate(chunk, phase_data, params, batch_stats)
        of_val = evaluate(chunk, phase_data, params, batch_stats, "val")
    of_test = evaluate(chunk, phase_data, params, batch_stats, "test")
    params, batch_stats = jax.device_get((params, batch_stats))
    outcomes = []
    for i, end in enumerate(ends):
        selected = TrialVariables(
            end.params | {name: leaf[i] for name, leaf in params.items()},
            end.batch_stats | {name: leaf[i] for name, leaf in batch_stats.items()},
        )
        outcomes.append(_outcome(chunk, chunk_state, i, selected, Measured(of_val, of_test, seconds)))
    return outcomes


class Measured(NamedTuple):
    """Scores of a chunk after its last phase (`of_val` only of recalibrated statistics), and a trial's seconds."""

    of_val: Scores | None
    of_test: Scores
    seconds: float


def _outcome(chunk: Chunk, chunk_state: ChunkState, i: int, selected: TrialVariables, measured: Measured) -> Outcome:
    """Returns the outcome of the trial `i`."""
    lane, program, of_val, of_test = chunk.lanes[i], chunk.program, measured.of_val, measured.of_test
    check_frozen(lane.batch_stats, selected.batch_stats, {name for p in program.phases for name in p.tracked})
    diverged = bool(chunk_state.diverged[i]) or not of_test.finite[i]
    no_val, no_test = diverged or not len(lane.val), diverged or not len(lane.test)
    curves = {name: chunk_state.history[i, :, j] for j, name in enumerate(curve_names())}
    epoch = int(chunk_state.best_epoch[i])
    at_epoch = {name: float(curves[f"val_{name}"][epoch]) for name in METRICS}
    val = at_epoch if of_val is None else of_val.metrics_of(i)
    return Outcome(
        params=plain_params(selected.params, lane),
        batch_stats=selected.batch_stats,
        curves={"epoch": np.array(program.epochs), **curves},
        diverged=diverged,
        selected_epoch=None if diverged else program.epochs[epoch],
        metrics=record_fields(None if no_val else val, None if no_test else of_test.metrics_of(i)),
        test_predictions=of_test.predictions[i],
        seconds=measured.seconds,
    )


def plain_params(params: Flat, lane: Lane) -> Flat:
    """Returns the parameters of a network, changes of kernels merged into them."""
    return merge(params, params, lane.hparams.lora_scale)
