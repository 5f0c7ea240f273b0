"""Recalibration of batch-norm statistics on the training images, and the check of frozen statistics."""

from collections.abc import Collection

import numpy as np

from jaxft.core import interrupts
from jaxft.core.text import some_of
from jaxft.data.streaming import load_rows
from jaxft.study.chunk.compiled import make_moments
from jaxft.study.chunk.evaluation import merge_adapters
from jaxft.study.chunk.lanes import Chunk
from jaxft.study.chunk.phase_data import PhaseData
from jaxft.training.evaluation import pool_moments
from jaxft.training.state import Flat

MOMENTS_BATCH = 256  # most images of a batch for recalibration


def recalibrate(chunk: Chunk, phase_data: PhaseData, params: Flat, batch_stats: Flat) -> Flat:
    """Returns the batch-norm statistics of the training images of each trial: arrays [trials, features] by name.

    Each training image is used once, without augmentation, in batches of nearly equal size and at most 256 images. The
    mean and variance of the input of a batch norm are pooled over all batches. Lower batch norms normalize with the
    statistics of the batch. So the result is exact for up to 256 images, and the estimate of the reference for more.

    Args:
      chunk: the trials.
      phase_data: images of the last phase.
      params: trainable parameters, with a leading trial axis.
      batch_stats: tracked statistics, with a leading trial axis.

    Reference: Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3.2.
    """
    lanes, executor = chunk.lanes, chunk.executor
    moments_step = make_moments(phase_data.phase.eval_spec, executor)
    params = merge_adapters(chunk, phase_data, params)
    count = len(lanes[0].train)
    batches = np.array_split(
        np.stack([phase_data.at(lane.train) for lane in lanes]), -(-count // MOMENTS_BATCH), axis=1
    )
    batch_moments = []
    for rows in batches:
        interrupts.check()
        images = executor.put_shared(load_rows(phase_data.images, rows))
        moments = moments_step(
            params, batch_stats, executor.put(rows[:, None]), phase_data.frozen_for_evaluation, images
        )
        batch_moments.append({name: np.asarray(value) for name, value in moments.items()})
    with np.errstate(invalid="ignore", over="ignore"):  # a trial may have diverged
        pooled = pool_moments(batch_moments, [rows.shape[1] for rows in batches])
    return executor.put({name: pooled[name] for name in batch_stats})


def check_frozen(before: Flat, after: Flat, tracked: Collection[str]) -> None:
    """Checks that frozen batch-norm statistics are bit-identical after training.

    Args:
      before: all initial statistics, [features] by name.
      after: all final statistics, [features] by name.
      tracked: the names of the statistics that training updates.

    Raises:
      RuntimeError: frozen statistics changed.
    """
    changed = [
        name
        for name, leaf in before.items()
        if name not in tracked
        and after[name] is not leaf
        and np.asarray(after[name]).tobytes() != np.asarray(leaf).tobytes()
    ]
    if changed:
        raise RuntimeError(f"training changed {len(changed)} frozen batch-norm statistics: {some_of(changed, 3)}.")
