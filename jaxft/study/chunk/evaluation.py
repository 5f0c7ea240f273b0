"""Evaluation of trials that run side by side, on their validation or test images."""

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

LEAST_EVAL_BATCH = 32
USUAL_EVAL_BATCH = 256  # but on a CPU, whose caches do not hold so much: there the least


def merge_adapters(chunk: Chunk, phase_data: PhaseData, params: Flat) -> Flat:
    """Returns the trials' parameters, changes of kernels merged into them."""
    if not any(map(is_adapter, params)):
        return params
    scale = chunk.executor.put(stack([lane.hparams.lora_scale for lane in chunk.lanes]))
    return make_merge(chunk.executor)(params, scale, phase_data.frozen.params)


class Scores(NamedTuple):
    """Mean loss [trials], and each metric [trials] by name, nan for no images; the predictions of each trial.

    `finite: [trials]` says whether all parameters and statistics of a trial's network are finite numbers.
    """

    loss: np.ndarray
    metrics: dict[str, np.ndarray]
    predictions: list[np.ndarray]
    finite: np.ndarray

    def metrics_of(self, i: int) -> dict[str, float]:
        """Returns the metrics of the trial `i`."""
        return {name: float(values[i]) for name, values in self.metrics.items()}


def evaluate(
    chunk: Chunk, phase_data: PhaseData, params: Flat, batch_stats: Flat, subset: Literal["val", "test"]
) -> Scores:
    """Returns the scores of the trials' networks on their own validation or test images.

    Args:
      phase_data: where the images and labels are read from.
      params: trainable parameters, with a leading trial axis.
      batch_stats: tracked statistics, with a leading trial axis.
      subset: the images to evaluate on.
    """
    program, lanes, executor = chunk.program, chunk.lanes, chunk.executor
    rows = [getattr(lane, subset) for lane in lanes]
    most = max(len(r) for r in rows)
    size = eval_batch(program, lanes, executor.num_devices)
    network = phase_data.phase.evaluated
    params = merge_adapters(chunk, phase_data, params)
    finite = make_finite(executor)(params, batch_stats)
    if subset == "test" and program.test_crops == "ten":
        network = dataclasses.replace(network, crops="ten")
        size = max(size // executor.num_devices // NUM_CROPS, 1) * executor.num_devices
    padded = [
        padded_batches(np.resize(phase_data.at(r), most) if len(r) else np.zeros(most, np.int32), size) for r in rows
    ]
    counts = np.array([len(r) for r in rows])
    eval_step = make_eval(network, executor)
    loss, correct, predictions = np.zeros(len(rows)), np.zeros(len(rows)), []
    every_batch = np.stack([p[0] for p in padded])
    images, windows = phase_data.images, None
    if isinstance(images, Stream):
        windows = Windows(images, every_batch, executor.put_shared)

    def dispatch(i: int) -> Evaluation:
        interrupts.check()
        batch = every_batch[:, i : i + 1]
        within = np.arange(i * size, (i + 1) * size).reshape(1, 1, -1) < counts.reshape(-1, 1, 1)
        seen = images if windows is None else windows.at(i)[0]
        placed = executor.put_batches((batch, within))
        return eval_step(params, batch_stats, phase_data.labels, *placed, phase_data.frozen_for_evaluation, seen)

    for result in one_behind(map(dispatch, range(-(-most // size) if most else 0))):
        loss += np.asarray(result.loss, np.float64)
        correct += np.asarray(result.correct, np.float64)
        predictions.append(np.asarray(result.predictions))
    all_predictions = np.concatenate(predictions, axis=1) if predictions else np.zeros((len(rows), 0), np.int32)
    trial_predictions = [all_predictions[i, :n].astype(np.int32) for i, n in enumerate(counts)]
    trial_metrics = [compute_metrics(lane.labels[r], p) for lane, r, p in zip(lanes, rows, trial_predictions)]
    metrics = {name: np.array([of_trial[name] for of_trial in trial_metrics]) for name in METRICS}
    with np.errstate(invalid="ignore"):
        metrics["accuracy"] = correct / counts  # as the program counts
        return Scores(loss / counts, metrics, trial_predictions, np.asarray(finite))


def one_behind(dispatched: Iterable[T]) -> Iterator[T]:
    """Yields each result after the next one is dispatched, so that the device need not wait for who reads them."""
    before: list[T] = []
    for result in dispatched:
        yield from before
        before = [result]
    yield from before


def eval_batch(program: Program, lanes: Sequence[Lane], num_devices: int) -> int:
    """Returns how many images are evaluated at a time: of validation and test alike, so that one program serves both.

    It is the program's number, or the power of two that holds all images of the smaller of the two.
    """
    limit = program.eval_batch_size or (LEAST_EVAL_BATCH if jax.default_backend() == "cpu" else USUAL_EVAL_BATCH)
    sizes = [most for subset in ("val", "test") if (most := max(len(getattr(lane, subset)) for lane in lanes))]
    holds = 1 << (min(sizes, default=1) - 1).bit_length()
    return max(min(limit, max(holds, LEAST_EVAL_BATCH)) // num_devices, 1) * num_devices
