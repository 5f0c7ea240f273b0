"""Evaluation of any weights in the same way as the final weights of a trial. The work directory stores the results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jaxft.study.chunk.evaluation import Scores
    from jaxft.study.planned import PlannedTrial
    from jaxft.study.work import Work

COLLECTIONS = ("params", "batch_stats")
Subset = Literal["val", "test"]
Weights = tuple[dict[str, Any], dict[str, Any]]  # all parameters and all batch-norm statistics, as flat dicts


@dataclass(frozen=True, eq=False)
class Scorer:
    """Evaluates weights on the images of a trial, with its network and batch size.

    Attributes:
      work: the study.
      planned: the trial.
      arrays: the initial weights, the labels and the split of the trial.
    """

    work: "Work"
    planned: "PlannedTrial"
    arrays: Any

    @classmethod
    def of(cls, work: "Work", planned: "PlannedTrial") -> "Scorer":
        """Returns the scorer of a trial."""
        return cls(work, planned, work.loader.lane(planned))

    def recalibrated(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
        """Returns batch-norm statistics. Those that training updated are recomputed from the training images."""
        import numpy as np

        from jaxft.study.chunk.recalibration import recalibrate

        if not self.planned.program.phases[-1].tracked:
            return dict(batch_stats)
        recomputed = recalibrate(*self._inputs(params, batch_stats))
        return dict(batch_stats) | {name: np.asarray(leaf)[0] for name, leaf in recomputed.items()}

    def accuracy(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any], subset: Subset) -> float:
        """Returns the accuracy on the validation or test images of the trial, or NaN without such images."""
        return float(self.scores(params, batch_stats, subset).metrics["accuracy"][0])

    def loss(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any], subset: Subset) -> float:
        """Returns the mean loss on the validation or test images of the trial, or NaN without such images."""
        return float(self.scores(params, batch_stats, subset).loss[0])

    def scores(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any], subset: Subset) -> "Scores":
        """Returns the loss and all metrics on the validation or test images of the trial."""
        from jaxft.study.chunk.evaluation import evaluate

        return evaluate(*self._inputs(params, batch_stats), subset)

    def _inputs(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> "tuple[Any, Any, Any, Any]":
        """Returns (chunk, phase data, trainable parameters, tracked statistics). All parameters are frozen."""
        import jax.numpy as jnp

        from jaxft.study.chunk.lanes import Chunk, stack
        from jaxft.study.chunk.phase_data import PhaseData
        from jaxft.study.executors import Sequential
        from jaxft.training.state import Frozen

        executor, phase = Sequential(), self.planned.program.phases[-1]
        tracked = {name: batch_stats[name] for name in phase.tracked}
        untracked = {name: leaf for name, leaf in batch_stats.items() if name not in tracked}
        frozen = executor.put_shared(Frozen(dict(params), untracked))
        labels, no_batches = jnp.asarray(self.arrays.labels[None]), jnp.zeros((1, 1, 1), jnp.int32)
        phase_data = PhaseData(phase, frozen, self.work.loader.images_of(self.planned), labels, no_batches)
        chunk = Chunk(self.planned.program, [self.arrays], executor)
        return chunk, phase_data, {}, executor.put(stack([tracked]))


def final_weights(work: "Work", trial: "PlannedTrial") -> Weights:
    """Returns the final parameters and batch-norm statistics of a trial, by name without the collection.

    Raises:
      DamagedFile: the weights are damaged.
    """
    from jaxft.store.sealed import DamagedFile
    from jaxft.study.stored_weights import is_whole
    from jaxft.weights import load_flat

    path = work.store.weights_path(trial.digest)
    if not is_whole(path):
        raise DamagedFile(path)
    flat, _ = load_flat(path, trial.model)
    trees = [{n.partition("/")[2]: leaf for n, leaf in flat.items() if n.startswith(f"{c}/")} for c in COLLECTIONS]
    return trees[0], trees[1]


def measure_once(work: "Work", identity: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the stored result of an analysis, or calls `measure` and stores its result.

    Args:
      work: the study, whose store keeps the result.
      identity: the inputs of the analysis. Equal inputs have the same result.
      measure: returns the result, as a dict that JSON can hold.

    Returns:
      The result and the fields of `identity`, as one dict.
    """
    from jaxft.config import digest

    name = digest(identity)
    stored = work.store.read("analyses", name)
    if stored is None:
        stored = {**identity, **measure()}
        work.store.write("analyses", name, stored, {})
    return stored
