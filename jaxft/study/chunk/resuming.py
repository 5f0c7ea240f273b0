"""Checkpoints of unfinished jobs: saving and loading."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from jaxft.config.fields import MAX_EPOCHS, MAX_STEPS
from jaxft.store.checkpoints import DamagedCheckpoint
from jaxft.store.records import Store
from jaxft.study.chunk.chunk_state import ChunkState, Position
from jaxft.training.state import Flat


class Checkpoints(Protocol):
    """A store of checkpoints of one job."""

    def latest(self) -> Position | None:
        """Returns the position of the last checkpoint."""

    def load(self, position: Position, like: Any) -> Any:
        """Returns the tree that was saved at `position`.

        Raises:
          jaxft.store.checkpoints.DamagedCheckpoint: it cannot be restored.
        """

    def save(self, position: Position, tree: Any) -> None:
        """Saves `tree`; its position must be later than all saved positions."""

    def drop(self) -> None:
        """Deletes all checkpoints."""


@dataclass(frozen=True)
class Snapshots:
    """Weights that are stored during training.

    Attributes:
      by_epoch: by epoch, counted from 1: a function that is called with the parameters and statistics of the first
        trial after this epoch.
      steps: the numbers of finished steps, counted over all phases.
      save: is called after these steps, for each trial: with its index in the chunk, the number of steps, the
        parameters and the statistics.
    """

    by_epoch: Mapping[int, Callable[[Flat, Flat], None]] = field(default_factory=dict)
    steps: tuple[int, ...] = ()
    save: Callable[[int, int, Flat, Flat], None] = lambda *_: None

    def until_next(self, step: int) -> int:
        """Returns the number of steps from `step` to the next snapshot."""
        return min((later - step for later in self.steps if later > step), default=MAX_STEPS)


@dataclass(frozen=True)
class CheckpointPolicy:
    """Where and when a running chunk saves its state.

    Attributes:
      checkpoints: checkpoints are saved to and resumed from here; if None, none are saved.
      seconds: seconds between two checkpoints.
      snapshots: weights that are stored during training.
    """

    checkpoints: Checkpoints | None = None
    seconds: float = 300.0
    snapshots: Snapshots = field(default_factory=Snapshots)


class Saver:
    """Saves the state of a chunk at intervals, together with the seconds that the chunk has taken.

    Attributes:
      checkpoints: where to save; None saves nothing.
      every_seconds: seconds between two checkpoints.
      resume_at: the position to resume from, until it is loaded; None without a checkpoint.
    """

    def __init__(self, policy: CheckpointPolicy):
        self.checkpoints, self.every_seconds = policy.checkpoints, policy.seconds
        self.resume_at = self.checkpoints.latest() if self.checkpoints else None
        self.started = self.last_save = time.monotonic()

    def load(self, position: Position, chunk_state: ChunkState) -> tuple[Position, ChunkState]:
        """Returns the saved position and state on the first call if there are any, otherwise its arguments.

        Raises:
          jaxft.store.checkpoints.DamagedCheckpoint: the state cannot be restored. The checkpoint is deleted, so the
            chunk can start again.
        """
        if self.checkpoints is None or self.resume_at is None:
            return position, chunk_state
        saved, self.resume_at = self.resume_at, None
        try:
            return saved, ChunkState(**self.checkpoints.load(saved, chunk_state.tree()))
        except DamagedCheckpoint:
            self.checkpoints.drop()
            raise

    def seconds(self, chunk_state: ChunkState) -> float:
        """Returns the seconds that the chunk has taken, including those before it was resumed."""
        return float(chunk_state.seconds) + time.monotonic() - self.started

    @property
    def is_due(self) -> bool:
        """Returns whether the next checkpoint is due."""
        return time.monotonic() - self.last_save >= self.every_seconds

    def save(self, position: Position, chunk_state: ChunkState) -> None:
        """Saves the state, unless its position is saved already."""
        if self.checkpoints is not None and self.checkpoints.latest() != position:
            chunk_state.seconds = np.asarray(self.seconds(chunk_state))
            self.started = time.monotonic()
            self.checkpoints.save(position, chunk_state.tree())
        self.last_save = time.monotonic()


class StoredCheckpoints:
    """The checkpoints of one job in a work directory, where they are numbered."""

    def __init__(self, store: Store, key: str):
        self.numbered = store.checkpoints(key)

    def latest(self) -> Position | None:
        """Returns the position of the last checkpoint."""
        number = self.numbered.latest()
        return None if number is None else position_of(number)

    def load(self, position: Position, like: Any) -> Any:
        """Returns the tree that was saved at `position`."""
        return self.numbered.load(number_of(position), like)

    def save(self, position: Position, tree: Any) -> None:
        """Saves `tree`; its position must be later than all saved positions."""
        self.numbered.save(number_of(position), tree)

    def drop(self) -> None:
        """Deletes all checkpoints."""
        self.numbered.drop()


def number_of(position: Position) -> int:
    """Returns the number of a position; later positions have larger numbers.

    The last five digits are the epoch, the nine digits before them the step.

    Raises:
      ValueError: the phase has 1e9 steps or 1e5 epochs, or more.
    """
    if position.step >= MAX_STEPS or position.epoch >= MAX_EPOCHS:
        raise ValueError(f"{position} cannot be numbered; a phase must have fewer than 1e9 steps and 1e5 epochs.")
    return (position.phase * MAX_STEPS + position.step) * MAX_EPOCHS + position.epoch


def position_of(number: int) -> Position:
    """Returns the position of a number from `number_of`."""
    steps, epoch = divmod(number, MAX_EPOCHS)
    return Position(*divmod(steps, MAX_STEPS), epoch)
