"""The arrays of one trial, before it runs (`Lane`) and after (`Outcome`); trials side by side (`Chunk`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxft.core.metrics import METRICS
from jaxft.data.streaming import Pixels
from jaxft.study.chunk.program import Program
from jaxft.study.executors import Executor
from jaxft.training.hparams import HParams
from jaxft.training.state import Flat


def curve_names() -> tuple[str, ...]:
    """Returns the names of the curves of an epoch: of training, and the loss and all metrics on validation."""
    return ("train_loss", "train_accuracy", "val_loss", *(f"val_{name}" for name in METRICS))


@dataclass(frozen=True)
class Lane:
    """The arrays of one trial.

    `params` and `batch_stats` are flat and whole, as the trial begins; leaves that a phase freezes are the same in
    all lanes that run side by side. `train`, `val` and `test` are rows of the images; `balanced` says that batches
    have every class as often. `source` is the source's network, flat `params` (its own head's too, where a file has
    one) and `batch_stats`, where regularizers need it. In events a trial is called `name`, its digest, and its epochs
    are of the phase `kind`, 'train' or 'source'; a lane that only fills up a chunk has no name.
    """

    params: Flat
    batch_stats: Flat
    hparams: HParams
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    order_seed: int
    augment_key: jax.Array
    balanced: bool = False
    source: Mapping[str, Flat] | None = None
    name: str = ""
    kind: str = "train"


@dataclass(frozen=True, eq=False)
class Chunk:
    """Trials that run side by side: their program, a lane each, and the executor that runs them."""

    program: Program
    lanes: Sequence[Lane]
    executor: Executor


@dataclass(frozen=True, eq=False)
class SharedImages:
    """The images of all trials, [n, h, w, 3] uint8 or a stream of as many, and what identifies them for a cache."""

    pixels: Pixels
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass
class Outcome:
    """What became of a trial.

    `metrics` have their names in records ('val_accuracy'); they are None where the trial diverged, or where there were
    no such images.
    """

    params: Flat
    batch_stats: Flat
    curves: dict[str, np.ndarray]
    diverged: bool
    selected_epoch: float | None
    metrics: dict[str, float | None]
    test_predictions: np.ndarray
    seconds: float


def stack(trees: Sequence[Any]) -> Any:
    """Returns trees of one structure as one on the host, whose leaves have a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)
