"""Batch-norm statistics recalibrated on the training images; frozen ones checked."""

from collections.abc import Collection

import numpy as np

from jaxft.core import interrupts
from jaxft.data.streaming import at_hand
from jaxft.study.chunk.compiled import make_moments
from jaxft.study.chunk.evaluation import merge_adapters
from jaxft.study.chunk.feed import Feed
from jaxft.study.chunk.lanes import Chunk
from jaxft.training.evaluation import pool_moments
from jaxft.training.state import Flat

MOMENTS_BATCH = 256  # most images that statistics are recalibrated on at a time


def recalibrate(chunk: Chunk, feed: Feed, params: Flat, batch_stats: Flat) -> Flat:
    """Returns tracked statistics replaced by those of all images that each trial trains on: [trials, features].

    The images are seen once, as in evaluation: without random changes, in batches that are as equal as can be, of at
    most 256. The mean and variance of what enters a batch norm are over all of them; what lies below is normalized by
    the statistics of its batch. So up to 256 images they are exact, above that those of Wu & Johnson 2021, section 3.2.
    """
    lanes, executor = chunk.lanes, chunk.executor
    moments_step = make_moments(feed.phase.evaluated, executor)
    params = merge_adapters(chunk, feed, params)
    count = len(lanes[0].train)
    batches = np.array_split(np.stack([feed.at(lane.train) for lane in lanes]), -(-count // MOMENTS_BATCH), axis=1)
    found = []
    for rows in batches:
        interrupts.check()
        images = executor.place_shared(at_hand(feed.images, rows))
        moments = moments_step(params, batch_stats, executor.place(rows[:, None]), feed.resting, images)
        found.append({name: np.asarray(value) for name, value in moments.items()})
    with np.errstate(invalid="ignore", over="ignore"):  # of a trial that diverged
        pooled = pool_moments(found, [rows.shape[1] for rows in batches])
    return executor.place({name: pooled[name] for name in batch_stats})


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
