"""The state of trials that run side by side, at the end of a step: all that they need to go on."""

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
    """How far a chunk is: the number of its phase, the steps done in it, and the epochs evaluated in it."""

    phase: int = 0
    step: int = 0
    epoch: int = 0


@dataclass
class ChunkState:
    """Everything that a chunk of trials needs to go on from the end of a step."""

    state: State
    best: Any  # (params, batch_stats) of the best epoch so far
    best_score: np.ndarray  # [trials, 2] validation accuracy and minus loss
    best_epoch: np.ndarray  # [trials], -1 where there is none
    history: np.ndarray  # [trials, epochs, curves], in the order of `curve_names`
    metrics: np.ndarray  # [trials, most steps of an epoch, 2] loss and accuracy of the steps of this epoch
    diverged: np.ndarray  # [trials]
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def tree(self) -> dict[str, Any]:
        """Returns the carry as a tree of arrays."""
        return dict(self.__dict__)


def initial_chunk_state(
    chunk_state: ChunkState | None, state: State, program: Program, phase: Phase, width: int
) -> ChunkState:
    """Returns the carry at the start of a phase.

    The curves go on. So do state and selection in a phase that goes on from the one before, whose best is one of this
    phase too: what joins had rested until then. Any other phase selects anew.
    """
    most_steps = max(end - begin for ends in program.epoch_ends for begin, end in zip((0, *ends), ends))
    evaluated = jax.tree.map(jnp.copy, state.evaluated)  # the state's own are given up to the steps
    first = ChunkState(
        state=state,
        best=evaluated,
        best_score=np.full((width, 2), -np.inf),
        best_epoch=np.full(width, -1),
        history=chunk_state.history
        if chunk_state
        else np.full((width, program.num_epochs, len(curve_names())), np.nan),
        metrics=np.zeros((width, most_steps, 2), np.float32),
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
