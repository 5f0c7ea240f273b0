"""Batch-norm statistics recalibrated on the training images; frozen ones checked."""

from collections.abc import Collection

import numpy as np

from jaxft.core import interrupts
from jaxft.data.streaming import at_hand
from jaxft.study.chunk.compiled import make_moments
from jaxft.study.chunk.evaluation import merge_adapters
from jaxft.study.chunk.lanes import Chunk
from jaxft.study.chunk.phase_data import PhaseData
from jaxft.training.evaluation import pool_moments
from jaxft.training.state import Flat

MOMENTS_BATCH = 256  # most images that statistics are recalibrated on at a time


def recalibrate(chunk: Chunk, phase_data: PhaseData, params: Flat, batch_stats: Flat) -> Flat:
    """Returns tracked statistics replaced by those of all images that each trial trains on: [trials, features].

    The images are seen once, as in evaluation: without random changes, in batches that are as equal as can be, of at
    most 256. The mean and variance of what enters a batch norm are over all of them; what lies below is normalized by
    the statistics of its batch. So up to 256 images they are exact, above that those of Wu & Johnson 2021, section 3.2.
    """
    lanes, executor = chunk.lanes, chunk.executor
    moments_step = make_moments(phase_data.phase.evaluated, executor)
    params = merge_adapters(chunk, phase_data, params)
    count = len(lanes[0].train)
    batches = np.array_split(
        np.stack([phase_data.at(lane.train) for lane in lanes]), -(-count // MOMENTS_BATCH), axis=1
    )
    batch_moments = []
    for rows in batches:
        interrupts.check()
        images = executor.put_shared(at_hand(phase_data.images, rows))
        moments = moments_step(
            params, batch_stats, executor.put(rows[:, None]), phase_data.frozen_for_evaluation, images
        )
        batch_moments.append({name: np.asarray(value) for name, value in moments.items()})
    with np.errstate(invalid="ignore", over="ignore"):  # of a trial that diverged
        pooled = pool_moments(batch_moments, [rows.shape[1] for rows in batches])
    return executor.put({name: pooled[name] for name in batch_stats})


def check_frozen(before: Flat, after: Flat, moving: Collection[str]) -> None:
    """Checks that batch-norm statistics that are to rest have the bits that they began with.

    Raises a `RuntimeError` that names those that moved.
    """
    moved = [
        name
        for name, leaf in before.items()
        if name not in moving
        and after[name] is not leaf
        and np.asarray(after[name]).tobytes() != np.asarray(leaf).tobytes()
    ]
    if moved:
        raise RuntimeError(f"frozen batch-norm statistics moved: {', '.join(moved)}.")
