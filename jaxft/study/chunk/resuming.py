"""Checkpoints of unfinished trials."""

import time
from typing import Any, Protocol

import numpy as np

from jaxft.store.records import Store
from jaxft.study.chunk.carry import Carry


class Checkpoints(Protocol):
    """Where the state of unfinished work is kept."""

    def latest(self) -> int | None:
        """Returns the place last saved."""

    def load(self, place: int, like: Any) -> Any:
        """Returns what was saved at `place`."""

    def save(self, place: int, tree: Any) -> None:
        """Keeps `tree`, of a later place than all before."""


class Saver:
    """Keeps the state of a chunk now and then, and how long it has taken."""

    def __init__(self, checkpoints: Checkpoints | None, every_seconds: float):
        self.checkpoints, self.every_seconds = checkpoints, every_seconds
        self.resume_at = checkpoints.latest() if checkpoints else None
        self.started = self.last = time.monotonic()

    def load(self, carry: Carry) -> Carry:
        """Returns what was kept, once, or else `carry`."""
        if self.checkpoints is None or self.resume_at is None:
            return carry
        place, self.resume_at = self.resume_at, None
        return Carry(**self.checkpoints.load(place, carry.tree()))

    def seconds(self, carry: Carry) -> float:
        """Returns how long the chunk has taken, before it was stopped too."""
        return float(carry.seconds) + time.monotonic() - self.started

    @property
    def is_due(self) -> bool:
        """Tells whether the last time that the state was kept is long ago."""
        return time.monotonic() - self.last >= self.every_seconds

    def save(self, place: int, carry: Carry) -> None:
        """Keeps the carry; a place that is kept already is left as it is."""
        if self.checkpoints is not None and self.checkpoints.latest() != place:
            carry.seconds = np.asarray(self.seconds(carry))
            self.started = time.monotonic()
            self.checkpoints.save(place, carry.tree())
        self.last = time.monotonic()


class StoredCheckpoints:
    """Checkpoints of one piece of work in a store."""

    def __init__(self, store: Store, key: str):
        self.store, self.key = store, key

    def latest(self) -> int | None:
        """Returns the place last saved."""
        return self.store.latest_checkpoint(self.key)

    def load(self, place: int, like: Any) -> Any:
        """Returns what was saved at `place`."""
        return self.store.load_checkpoint(self.key, place, like)

    def save(self, place: int, tree: Any) -> None:
        """Keeps `tree`."""
        self.store.save_checkpoint(self.key, place, tree)
