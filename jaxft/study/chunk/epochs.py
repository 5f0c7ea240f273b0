"""The end of an epoch: curves, divergence and selection of the best epoch."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core.events import EpochEnded
from jaxft.study.chunk.chunk_state import ChunkState
from jaxft.study.chunk.evaluation import evaluate
from jaxft.study.chunk.lanes import Chunk, Lane, curve_names
from jaxft.study.chunk.phase_data import PhaseData


def end_epoch(chunk: Chunk, phase_data: PhaseData, chunk_state: ChunkState, epoch: int, num_steps: int) -> None:
    """Evaluates on the validation images and updates the curves, divergence and best epoch of the chunk state.

    A trial has diverged if its loss, a parameter or a statistic is not finite; its curves end there. The best epoch has
    the highest validation accuracy, with ties broken by validation loss. Without validation images, or if the program
    selects the last weights, it is the last epoch.

    Args:
      chunk: the trials.
      phase_data: images and labels of the phase.
      chunk_state: the state after the last step of the epoch; it is updated.
      epoch: number of the epoch over all phases, counted from 0.
      num_steps: number of steps of the epoch.
    """
    state, lanes = chunk_state.state, chunk.lanes
    scores = evaluate(chunk, phase_data, *state.evaluated, "val")
    loss, accuracy = scores.loss, scores.metrics["accuracy"]
    num_averaged = 1 if phase_data.phase.is_full_batch else num_steps  # each full-batch step uses all images
    train_means = chunk_state.metrics[:, num_steps - num_averaged : num_steps].astype(np.float64).mean(axis=1)
    chunk_state.history[:, epoch] = np.stack(
        [train_means[:, 0], train_means[:, 1], loss, *scores.metrics.values()], axis=1
    )
    has_val = np.array([len(lane.val) > 0 for lane in lanes])
    chunk_state.diverged = (
        chunk_state.diverged | ~scores.finite | ~np.isfinite(train_means[:, 0]) | (has_val & ~np.isfinite(loss))
    )
    chunk_state.history[chunk_state.diverged, epoch] = np.nan
    ties = (accuracy == chunk_state.best_score[:, 0]) & (-loss > chunk_state.best_score[:, 1])
    better = (accuracy > chunk_state.best_score[:, 0]) | ties | ~has_val | (chunk.program.select == "last")
    better &= ~chunk_state.diverged
    chunk_state.best = _where(chunk.executor.put(better), state.evaluated, chunk_state.best)
    chunk_state.best_score = np.where(better[:, None], np.stack([accuracy, -loss], axis=1), chunk_state.best_score)
    chunk_state.best_epoch = np.where(better, epoch, chunk_state.best_epoch)


@functools.partial(jax.jit, donate_argnums=2)
def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def epoch_ended(lanes: Sequence[Lane], chunk_state: ChunkState, epoch: int) -> EpochEnded:
    """Returns the event of the end of an epoch, counted from 0, for the trials that have a name."""
    named = [i for i, lane in enumerate(lanes) if lane.name]
    curves = chunk_state.history[named, epoch]
    metrics = {name: tuple(map(_rounded, curves[:, i].tolist())) for i, name in enumerate(curve_names())}
    names = tuple(lanes[i].name for i in named)
    return EpochEnded(lanes[0].kind, names, epoch + 1, chunk_state.history.shape[1], metrics)


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
