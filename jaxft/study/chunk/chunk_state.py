"""The state of a chunk between two training steps, which a checkpoint saves."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.study.chunk.lanes import curve_names
from jaxft.study.chunk.program import Program
from jaxft.training.phase import Phase
from jaxft.training.state import State, continue_state


@dataclass(frozen=True, order=True)
class Position:
    """The position of a chunk: its phase, counted from 0, and the finished steps and evaluated epochs of this phase."""

    phase: int = 0
    step: int = 0
    epoch: int = 0


@dataclass
class ChunkState:
    """The state of a chunk of trials after a step. A chunk can resume from it.

    Attributes:
      state: the training state, with a leading trial axis.
      best: (params, batch_stats) of the best epoch so far, with a leading trial axis.
      best_score: [trials, 2], the validation accuracy and the negative validation loss of the best epoch.
      best_epoch: [trials], the number of the best epoch, counted from 0 over all phases; -1 before the first selection.
      history: [trials, epochs, curves], the curves in the order of `curve_names`.
      metrics: [trials, steps of the longest epoch, 2], the loss and accuracy of each step of the current epoch.
      diverged: [trials] bool.
      seconds: scalar, the seconds that the chunk has taken.
    """

    state: State
    best: Any
    best_score: np.ndarray
    best_epoch: np.ndarray
    history: np.ndarray
    metrics: np.ndarray
    diverged: np.ndarray
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def tree(self) -> dict[str, Any]:
        """Returns the fields as a dict of trees of arrays."""
        return dict(self.__dict__)


def initial_chunk_state(
    chunk_state: ChunkState | None, state: State, program: Program, phase: Phase, width: int
) -> ChunkState:
    """Returns the chunk state at the start of a phase.

    The curves, divergence and seconds continue. A phase that continues the schedule of the previous phase (gradual
    unfreezing) also continues its training state and its best epoch: leaves that join were frozen until then, so their
    best values are their initial values. All other phases start a new state and a new selection.

    Args:
      chunk_state: the state at the end of the previous phase; None for the first phase.
      state: the initial training state of the phase, with a leading trial axis.
      program: the program of the trials.
      phase: the phase.
      width: number of trials.
    """
    max_steps = max(end - begin for ends in program.epoch_ends for begin, end in zip((0, *ends), ends))
    evaluated = jax.tree.map(jnp.copy, state.evaluated)  # a step overwrites the arrays of the state
    first = ChunkState(
        state=state,
        best=evaluated,
        best_score=np.full((width, 2), -np.inf),
        best_epoch=np.full(width, -1),
        history=chunk_state.history
        if chunk_state
        else np.full((width, program.num_epochs, len(curve_names())), np.nan),
        metrics=np.zeros((width, max_steps, 2), np.float32),
        diverged=chunk_state.diverged if chunk_state else np.zeros(width, bool),
        seconds=chunk_state.seconds if chunk_state else np.zeros(()),
    )
    if chunk_state is None or not phase.first_step:
        return first
    untrained = jax.tree.map(jnp.copy, (state.params, state.batch_stats))
    return dataclasses.replace(
        first,
        state=continue_state(chunk_state.state, state),
        best=(untrained[0] | chunk_state.best[0], untrained[1] | chunk_state.best[1]),
        best_score=chunk_state.best_score,
        best_epoch=chunk_state.best_epoch,
    )
