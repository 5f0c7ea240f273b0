"""Checkpoints of unfinished trials: when they are saved, where, and what is loaded."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from jaxft.store.records import Store
from jaxft.study.chunk.chunk_state import ChunkState, Position
from jaxft.training.state import Flat

MOST_STEPS, MOST_EPOCHS = 10**9, 10**5  # of a phase, in the number of a checkpoint


class Checkpoints(Protocol):
    """Where the state of unfinished work is kept."""

    def latest(self) -> Position | None:
        """Returns the position of the last checkpoint."""

    def load(self, position: Position, like: Any) -> Any:
        """Returns the tree that was saved at `position`."""

    def save(self, position: Position, tree: Any) -> None:
        """Keeps `tree`, of a later position than all before."""


@dataclass(frozen=True)
class CheckpointPolicy:
    """What a chunk keeps while it runs.

    Attributes:
      checkpoints: where to save the state, and to go on from; None keeps nothing.
      seconds: from one checkpoint to the next.
      snapshots: by the number of an epoch, from 1, a function that keeps the first trial's parameters and statistics.
    """

    checkpoints: Checkpoints | None = None
    seconds: float = 300.0
    snapshots: Mapping[int, Callable[[Flat, Flat], None]] = field(default_factory=dict)


class Saver:
    """Saves the state of a chunk now and then, with the seconds that it has taken."""

    def __init__(self, policy: CheckpointPolicy):
        self.checkpoints, self.every_seconds = policy.checkpoints, policy.seconds
        self.resume_at = self.checkpoints.latest() if self.checkpoints else None
        self.started = self.last = time.monotonic()

    def load(self, position: Position, chunk_state: ChunkState) -> tuple[Position, ChunkState]:
        """Returns the position and carry that were saved, once, or else those given."""
        if self.checkpoints is None or self.resume_at is None:
            return position, chunk_state
        saved, self.resume_at = self.resume_at, None
        return saved, ChunkState(**self.checkpoints.load(saved, chunk_state.tree()))

    def seconds(self, chunk_state: ChunkState) -> float:
        """Returns how long the chunk has taken, before it was stopped too."""
        return float(chunk_state.seconds) + time.monotonic() - self.started

    @property
    def is_due(self) -> bool:
        """Tells whether the last checkpoint is long ago."""
        return time.monotonic() - self.last >= self.every_seconds

    def save(self, position: Position, chunk_state: ChunkState) -> None:
        """Saves the carry; a position that is saved already is left as it is."""
        if self.checkpoints is not None and self.checkpoints.latest() != position:
            chunk_state.seconds = np.asarray(self.seconds(chunk_state))
            self.started = time.monotonic()
            self.checkpoints.save(position, chunk_state.tree())
        self.last = time.monotonic()


class StoredCheckpoints:
    """Checkpoints of one piece of work in a store, whose checkpoints have numbers."""

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
        """Keeps `tree`."""
        self.numbered.save(number_of(position), tree)


def number_of(position: Position) -> int:
    """Returns the number of a position, which grows with it: nine digits are the step, the last five the epoch."""
    if position.step >= MOST_STEPS or position.epoch >= MOST_EPOCHS:
        raise ValueError(f"{position} has no number: a phase has fewer than 1e9 steps and 1e5 epochs.")
    return (position.phase * MOST_STEPS + position.step) * MOST_EPOCHS + position.epoch


def position_of(number: int) -> Position:
    """Returns the position of a number that `number_of` made."""
    steps, epoch = divmod(number, MOST_EPOCHS)
    return Position(*divmod(steps, MOST_STEPS), epoch)
