"""The accuracy of any weights, measured as a trial's own weights are, and kept in the study's work directory."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jaxft.study.planned import PlannedTrial
    from jaxft.study.work import Work

COLLECTIONS = ("params", "batch_stats")
Part = Literal["val", "test"]
Weights = tuple[dict[str, Any], dict[str, Any]]  # parameters and batch-norm statistics, flat and whole


@dataclass(frozen=True, eq=False)
class Scorer:
    """Evaluates weights with the images, the batches and the network of a trial."""

    work: "Work"
    planned: "PlannedTrial"
    lane: Any

    @classmethod
    def of(cls, work: "Work", planned: "PlannedTrial") -> "Scorer":
        """Returns the scorer of a trial."""
        return cls(work, planned, work.starts.lane(planned))

    def recalibrated(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `batch_stats`; those that the trial updated in training are estimated again, from its images."""
        import numpy as np

        from jaxft.study.chunk.recalibration import recalibrate

        if not self.planned.program.phases[-1].tracked:
            return dict(batch_stats)
        estimated = recalibrate(*self._inputs(params, batch_stats))
        return dict(batch_stats) | {name: np.asarray(leaf)[0] for name, leaf in estimated.items()}

    def accuracy(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any], part: Part) -> float:
        """Returns the accuracy on the trial's images of a part, 'val' or 'test'; nan if it has none."""
        from jaxft.study.chunk.evaluation import evaluate

        scores = evaluate(*self._inputs(params, batch_stats), part)
        return float(scores.metrics["accuracy"][0])

    def _inputs(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> "tuple[Any, Any, Any, Any]":
        """Returns (chunk, feed, trainable parameters, tracked statistics); the feed has all parameters, frozen."""
        import jax.numpy as jnp

        from jaxft.study.chunk.feed import Feed
        from jaxft.study.chunk.lanes import Chunk, stack
        from jaxft.study.executors import InTurn
        from jaxft.training.state import Frozen

        executor, phase = InTurn(), self.planned.program.phases[-1]
        tracked = {name: batch_stats[name] for name in phase.tracked}
        resting = {name: leaf for name, leaf in batch_stats.items() if name not in tracked}
        frozen = executor.place_shared(Frozen(dict(params), resting))
        labels, no_batches = jnp.asarray(self.lane.labels[None]), jnp.zeros((1, 1, 1), jnp.int32)
        feed = Feed(phase, frozen, self.work.starts.images_of(self.planned), labels, no_batches)
        chunk = Chunk(self.planned.program, [self.lane], executor)
        return chunk, feed, {}, executor.place(stack([tracked]))


def final_weights(work: "Work", trial: "PlannedTrial") -> Weights:
    """Returns a trial's final parameters and batch-norm statistics, by their names below the collection."""
    from jaxft.weights import load_flat

    flat, _ = load_flat(work.store.weights_path(trial.digest), trial.model)
    parts = [{n.partition("/")[2]: leaf for n, leaf in flat.items() if n.startswith(f"{c}/")} for c in COLLECTIONS]
    return parts[0], parts[1]


def measure_once(work: "Work", identity: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the stored analysis of an identity; if there is none, stores the result of `measure` first.

    The result is a dict that JSON can hold, and has the fields of `identity` too.
    """
    from jaxft.config import digest

    name = digest(identity)
    stored = work.store.read("analyses", name)
    if stored is None:
        stored = {**identity, **measure()}
        work.store.write("analyses", name, stored, {})
    return stored


def finite_or_none(value: float) -> float | None:
    """Returns a number that JSON can hold: None in place of nan and infinity."""
    return value if math.isfinite(value) else None
