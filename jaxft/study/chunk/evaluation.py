"""Evaluation of a chunk of trials on their validation or test images."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

import jax
import numpy as np

from jaxft.core import interrupts
from jaxft.core.metrics import METRICS, compute_metrics
from jaxft.data.augmentation.evaluation import NUM_CROPS
from jaxft.data.batches import padded_batches
from jaxft.data.streaming import Stream, Windows
from jaxft.study.chunk.compiled import make_eval, make_finite, make_merge
from jaxft.study.chunk.lanes import Chunk, Lane, stack
from jaxft.study.chunk.phase_data import PhaseData
from jaxft.study.chunk.program import Program
from jaxft.training.adapters import is_adapter
from jaxft.training.evaluation import Evaluation
from jaxft.training.state import Flat

T = TypeVar("T")

MIN_EVAL_BATCH = 32  # also the batch on a CPU, whose caches hold no more
ACCELERATOR_EVAL_BATCH = 256


def merge_adapters(chunk: Chunk, phase_data: PhaseData, params: Flat) -> Flat:
    """Returns parameters with a leading trial axis, with LoRA factors merged into their kernels."""
    if not any(map(is_adapter, params)):
        return params
    scale = chunk.executor.put(stack([lane.hparams.lora_scale for lane in chunk.lanes]))
    return make_merge(chunk.executor)(params, scale, phase_data.frozen.params)


class Scores(NamedTuple):
    """The scores of a chunk on one subset.

    Attributes:
      loss: [trials], the mean loss; nan without images.
      metrics: each metric [trials] by name; nan without images.
      predictions: [images] int32 of each trial, the predicted classes.
      finite: [trials] bool, whether all parameters and statistics of the network are finite.
    """

    loss: np.ndarray
    metrics: dict[str, np.ndarray]
    predictions: list[np.ndarray]
    finite: np.ndarray

    def metrics_of(self, i: int) -> dict[str, float]:
        """Returns the metrics of trial `i` by name."""
        return {name: float(values[i]) for name, values in self.metrics.items()}


def evaluate(
    chunk: Chunk, phase_data: PhaseData, params: Flat, batch_stats: Flat, subset: Literal["val", "test"]
) -> Scores:
    """Returns the scores of each trial on its validation or test images.

    Args:
      chunk: the trials.
      phase_data: images and labels of the phase.
      params: trainable parameters, with a leading trial axis.
      batch_stats: tracked batch-norm statistics, with a leading trial axis.
      subset: 'val' or 'test'.
    """
    program, lanes, executor = chunk.program, chunk.lanes, chunk.executor
    rows = [getattr(lane, subset) for lane in lanes]
    max_images = max(len(r) for r in rows)
    size = eval_batch(program, lanes, executor.num_devices)
    network = phase_data.phase.eval_spec
    params = merge_adapters(chunk, phase_data, params)
    finite = make_finite(executor)(params, batch_stats)
    if subset == "test" and program.test_crops == "ten":
        network = dataclasses.replace(network, crops="ten")
        size = max(size // executor.num_devices // NUM_CROPS, 1) * executor.num_devices
    padded = [
        padded_batches(np.resize(phase_data.at(r), max_images) if len(r) else np.zeros(max_images, np.int32), size)
        for r in rows
    ]
    counts = np.array([len(r) for r in rows])
    eval_step = make_eval(network, executor)
    loss, correct, predictions = np.zeros(len(rows)), np.zeros(len(rows)), []
    all_batches = np.stack([p[0] for p in padded])
    images, windows = phase_data.images, None
    if isinstance(images, Stream):
        windows = Windows(images, all_batches, executor.put_shared)

    def dispatch(i: int) -> Evaluation:
        interrupts.check()
        batch = all_batches[:, i : i + 1]
        mask = np.arange(i * size, (i + 1) * size).reshape(1, 1, -1) < counts.reshape(-1, 1, 1)
        batch_images = images if windows is None else windows.at(i)[0]
        placed = executor.put_batches((batch, mask))
        return eval_step(
            params, batch_stats, phase_data.labels, *placed, phase_data.frozen_for_evaluation, batch_images
        )

    for result in one_behind(map(dispatch, range(-(-max_images // size) if max_images else 0))):
        loss += np.asarray(result.loss, np.float64)
        correct += np.asarray(result.correct, np.float64)
        predictions.append(np.asarray(result.predictions))
    all_predictions = np.concatenate(predictions, axis=1) if predictions else np.zeros((len(rows), 0), np.int32)
    trial_predictions = [all_predictions[i, :n].astype(np.int32) for i, n in enumerate(counts)]
    trial_metrics = [compute_metrics(lane.labels[r], p) for lane, r, p in zip(lanes, rows, trial_predictions)]
    metrics = {name: np.array([values[name] for values in trial_metrics]) for name in METRICS}
    with np.errstate(invalid="ignore"):
        metrics["accuracy"] = correct / counts  # as counted by the compiled program
        return Scores(loss / counts, metrics, trial_predictions, np.asarray(finite))


def one_behind(dispatched: Iterable[T]) -> Iterator[T]:
    """Yields each result after the next one is dispatched, so the device is not idle while the host reads a result."""
    previous: list[T] = []
    for result in dispatched:
        yield from previous
        previous = [result]
    yield from previous


def eval_batch(program: Program, lanes: Sequence[Lane], num_devices: int) -> int:
    """Returns the number of images in an evaluation batch, equal for validation and test, so one program runs both.

    It is the smallest power of two that holds the smaller set, but at least 32 and at most `Program.eval_batch_size`
    (by default 32 on a CPU and 256 on an accelerator), rounded down to a multiple of `num_devices`.
    """
    limit = program.eval_batch_size or (MIN_EVAL_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_EVAL_BATCH)
    sizes = [
        max_images for subset in ("val", "test") if (max_images := max(len(getattr(lane, subset)) for lane in lanes))
    ]
    fitting_size = 1 << (min(sizes, default=1) - 1).bit_length()
    return max(min(limit, max(fitting_size, MIN_EVAL_BATCH)) // num_devices, 1) * num_devices
