"""The arrays of one trial before (`Lane`) and after (`Outcome`) it runs, and trials that run together (`Chunk`)."""

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
    """Returns the names of the curves: training loss and accuracy, validation loss, and all validation metrics."""
    return ("train_loss", "train_accuracy", "val_loss", *(f"val_{name}" for name in METRICS))


@dataclass(frozen=True)
class Lane:
    """The initial arrays of one trial.

    Attributes:
      params: all initial parameters, a flat dict. Leaves that a phase freezes are equal in all trials of a chunk.
      batch_stats: all initial batch-norm statistics, a flat dict.
      hparams: the hyperparameters that are traced.
      labels: [n] int32, the labels of all images.
      train: [train images] int32, rows of the images; `val` and `test` likewise.
      order_seed: seed of the order of the batches.
      augment_key: key data of the augmentation.
      balanced: whether batches contain all classes equally often.
      source: flat `params` (with the head, if the file has one) and `batch_stats` of the source network; None if no
        regularizer needs them.
      name: digest of the trial, for events; empty for a trial that only completes a chunk.
      kind: 'train' or 'source', for events.
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
    """Trials that run together: their program, the arrays of each trial, and their executor."""

    program: Program
    lanes: Sequence[Lane]
    executor: Executor


@dataclass(frozen=True, eq=False)
class SharedImages:
    """The images of all trials.

    Attributes:
      pixels: [n, h, w, 3] uint8, or a stream of n images.
      fingerprint: identity of the images in the feature cache; without a cache, it can be empty.
    """

    pixels: Pixels
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass
class Outcome:
    """The results of one trial.

    Attributes:
      params: all parameters of the selected epoch, flat, with LoRA factors merged.
      batch_stats: all batch-norm statistics of the selected epoch, flat.
      curves: [evaluations] by name: 'epoch' and `curve_names`.
      diverged: whether the trial has diverged.
      selected_epoch: epochs of training at the selected evaluation; None if the trial diverged.
      metrics: by field name of records ('val_accuracy'); None if the trial diverged or has no such images.
      test_predictions: [test images] int32, the predicted classes.
      seconds: seconds of the chunk, divided by its number of trials.
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
    """Returns trees with equal structure as one tree on the host, stacked along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)
