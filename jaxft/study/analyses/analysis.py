"""The interface of an analysis, and what it reads of a trained trial.

To add an analysis, register it, in a plug-in or in a module here:

    ANALYSES.register("norms", Analysis(norms), help="L2 norm of the final parameters")

`norms(trial)` yields a `Row` for each value. The study stores the rows in its work directory, once for each trial.
`jaxft.load_analyses`, `analyses.csv` and the report contain them.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxft.core.paths import unflatten
from jaxft.data.augmentation.evaluation import center_crop
from jaxft.data.streaming import load_rows
from jaxft.features.prefix import BATCH_SIZE
from jaxft.models.taps import make_apply
from jaxft.study.planned import PlannedTrial
from jaxft.study.scorer import Scorer, Weights, final_weights
from jaxft.study.work import Work
from jaxft.weights import load_flat

Variables = Mapping[str, Mapping[str, Any]]  # {'params': flat dict, 'batch_stats': flat dict}


class Row(NamedTuple):
    """One value of an analysis.

    Attributes:
      level: 'total', 'block', 'layer', 'leaf' or 'step'.
      name: name of the block, layer or leaf, or a number of steps; for the level 'total', 'total'.
      measure: name of the measure.
      value: the value; NaN or infinity are stored as missing.
    """

    level: str
    name: str
    measure: str
    value: float


@dataclass(frozen=True, eq=False)
class TrainedTrial:
    """A finished trial with stored final weights."""

    work: Work
    planned: PlannedTrial

    @functools.cached_property
    def scorer(self) -> Scorer:
        """Returns the evaluation of any weights on the images of the trial."""
        return Scorer.of(self.work, self.planned)

    @functools.cached_property
    def initial(self) -> Variables:
        """Returns the initial variables, with the initial head."""
        return {"params": self.scorer.arrays.params, "batch_stats": self.scorer.arrays.batch_stats}

    @functools.cached_property
    def final(self) -> Variables:
        """Returns the final variables: those of the selected epoch."""
        params, batch_stats = final_weights(self.work, self.planned)
        return {"params": params, "batch_stats": batch_stats}

    def snapshots(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (steps of training, flat parameters) of the stored snapshots, in the order of training."""
        for path in snapshot_paths(self.work, self.planned):
            flat, _ = load_flat(path, self.planned.model)
            yield int(path.stem), {n.removeprefix("params/"): a for n, a in flat.items() if n.startswith("params/")}

    @functools.cached_property
    def apply(self) -> Callable[[Variables, Any], dict[str, Any]]:
        """Returns `apply(variables, images) -> {tap: activations [n, ...]}` for `validation_batches`."""
        apply = make_apply(self.planned.model)
        return lambda variables, images: apply({name: unflatten(leaves) for name, leaves in variables.items()}, images)

    def validation_batches(self) -> Iterator[tuple[Any, Any]]:
        """Yields (preprocessed images [n, height, width, 3], labels [n]) of the validation images, in batches of 32.

        The last batch may be smaller.
        """
        import numpy as np

        pixels, preprocessing = self.work.loader.images_of(self.planned), self.planned.program.phases[-1].preprocessing
        rows = np.asarray(self.scorer.arrays.val)
        for start in range(0, len(rows), BATCH_SIZE):
            of_batch = rows[start : start + BATCH_SIZE]
            images = center_crop(load_rows(pixels, of_batch)[of_batch], preprocessing.size_px)
            yield preprocessing.apply(images), self.scorer.arrays.labels[of_batch]

    def loss(self, variables: Variables) -> float:
        """Returns the mean loss on the validation images."""
        return self.scorer.loss(*_parts(variables), "val")

    def accuracy(self, variables: Variables) -> float:
        """Returns the accuracy on the validation images, in [0, 1]."""
        return self.scorer.accuracy(*_parts(variables), "val")

    def recalibrated(self, variables: Variables) -> Variables:
        """Returns variables whose updated batch-norm statistics are recomputed from the training images."""
        params, batch_stats = _parts(variables)
        return {"params": params, "batch_stats": self.scorer.recalibrated(params, batch_stats)}


def snapshot_paths(work: Work, planned: PlannedTrial) -> list[Path]:
    """Returns the paths of the requested snapshots of a trial, in the order of training."""
    return [work.store.snapshot_path(planned.digest, step) for step in work.plan.snapshot_steps(planned)]


def _parts(variables: Variables) -> Weights:
    return dict(variables["params"]), dict(variables.get("batch_stats", {}))


@dataclass(frozen=True)
class Analysis:
    """An analysis of trained trials.

    Attributes:
      measure: yields the rows of a trial; with `of_pairs`, of two trials of a setting.
      of_pairs: whether the analysis compares two trials. It then runs for all pairs of seeds of each setting.
      min_images: the smallest number of validation images that the analysis needs.
      needs_snapshots: whether the analysis needs snapshots of the weights during training.
      version: is part of the digest. A new version measures again.
    """

    measure: Callable[..., Iterable[Row]]
    of_pairs: bool = False
    min_images: int = 0
    needs_snapshots: bool = False
    version: int = 1

    def rows(self, trials: Sequence[TrainedTrial]) -> list[Row]:
        """Returns the rows of one trial, or of two trials."""
        return [Row(level, name, measure, float(value)) for level, name, measure, value in self.measure(*trials)]
