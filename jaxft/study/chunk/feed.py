"""What the steps of a phase read: images or activations of its frozen prefix, labels, indices of batches."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxft.config import Execution
from jaxft.core.errors import UserError
from jaxft.core.events import Listener
from jaxft.data.batches import balanced_indices, batch_indices
from jaxft.data.streaming import Pixels, Stream, Windows
from jaxft.features.cache import FeatureCache
from jaxft.features.prefix import Prefix
from jaxft.study.chunk.compiled import MOST_STEPS
from jaxft.study.chunk.lanes import Lane
from jaxft.study.chunk.prefixes import prefix_of
from jaxft.study.chunk.program import Program
from jaxft.study.chunk.reference import make_reference
from jaxft.study.executors import Executor
from jaxft.training.phases import Phase
from jaxft.training.regularization import Reference
from jaxft.training.state import Frozen


@dataclass(frozen=True, eq=False)
class Feed:
    """What a phase reads: images, or what its frozen prefix says of them, and their labels [trials, images].

    `indices` are those of its batches; `place` tells where among the images that of an index is; none: there. Of a
    stream the `windows` are read.
    """

    phase: Phase
    frozen: Frozen
    images: Pixels
    labels: jax.Array
    indices: jax.Array
    place: np.ndarray | None = None
    windows: Windows | None = None

    @property
    def resting(self) -> Frozen:
        """Returns what is frozen, without what regularisers need: the same program evaluates with and without."""
        return self.frozen._replace(reference=None)

    def at_step(self, step: int) -> tuple[Any, int]:
        """Returns images that a step of the phase can read, and for how many steps from it on they will do."""
        return (self.images, MOST_STEPS) if self.windows is None else self.windows.at(step)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Returns where the images of `indices` are."""
        return indices if self.place is None else self.place[indices]

    def of_images(self, images: Pixels, labels: jax.Array) -> "Feed":
        """Returns the feed of the images themselves, [n, h, w, 3] uint8, whose labels are `labels: [trials, n]`."""
        phase = dataclasses.replace(self.phase, from_features=False)
        return dataclasses.replace(self, phase=phase, images=images, labels=labels, place=None)


def make_feed(
    program: Program,
    phase: Phase,
    frozen: Frozen,
    lanes: Sequence[Lane],
    first_step: int,
    images: Pixels,
    labels: jax.Array,
    executor: Executor,
    features: FeatureCache | None,
    fingerprint: str,
    emit: Listener,
) -> Feed:
    """Returns the images, or the outputs of the phase's frozen prefix where these cannot vary and fit in memory.

    `first_step` is how many steps the phases before had.
    """
    first, steps = (0, 1) if phase.whole else (first_step, phase.num_steps)
    views = max(phase.views, 1)
    where = first, steps, phase.batch_size, views, len(images)
    indices = np.stack(
        [
            balanced_indices(lane.train, lane.labels, lane.order_seed, *where)
            if lane.balanced
            else batch_indices(lane.train, lane.order_seed, *where)
            for lane in lanes
        ]
    )

    def refer(rows: np.ndarray) -> Reference | None:
        cache = features or FeatureCache(Execution().feature_cache_bytes)
        return executor.place_shared(make_reference(phase, lanes, images, fingerprint, cache, indices, rows, emit))

    def make_whole() -> Feed:
        windows = None
        if isinstance(images, Stream):
            if phase.whole:
                raise UserError(
                    "'training.linear_probe.optimizer' is 'lbfgs', whose every step is over all images, but they take "
                    f"{images.images.nbytes / 1e9:.1f} GB; raise 'execution.device_data_bytes', or use 'same'."
                )
            windows = Windows(images, indices % len(images), executor.place_shared)
        with_source = frozen._replace(reference=refer(np.arange(views * len(images))))
        return Feed(phase, with_source, images, labels, executor.place_batches(indices), windows=windows)

    if features is None or phase.prefix is None or not phase.keeps_prefix:
        return make_whole()

    def prefix_to(unit: str, through: Prefix | None) -> Prefix:
        variables = {"params": frozen.params, "batch_stats": frozen.batch_stats}
        return prefix_of(phase, unit, variables, images, fingerprint, lanes[0], through)

    # A later phase begins lower down: what it will ask for is kept on the way.
    order = phase.model.units.index
    lower = min((p.prefix for p in program.phases if p.prefix), key=order)
    through = prefix_to(lower, None) if order(lower) < order(phase.prefix) else None
    prefix = prefix_to(phase.prefix, through)
    evaluated = [rows for lane in lanes for rows in (lane.val, lane.test, *[lane.train] * phase.recalibrates)]
    needed = np.unique(np.concatenate([indices.ravel(), *evaluated]))
    if not features.fits(prefix, needed):
        prefix = dataclasses.replace(prefix, through=None)
    if not features.fits(prefix, needed):
        return make_whole()
    place = np.full(views * len(images), -1, np.int32)
    place[needed] = np.arange(len(needed))
    outputs = executor.place_shared(features.outputs(prefix, needed, emit))
    from_features = dataclasses.replace(phase, from_features=True)
    of_needed = executor.place(np.asarray(labels)[:, needed % len(images)])
    with_source = frozen._replace(reference=refer(needed))
    return Feed(from_features, with_source, outputs, of_needed, executor.place_batches(place[indices]), place)


def shared_frozen(frozen: Sequence[Frozen]) -> Frozen:
    """Returns what is frozen, which must be the same in all lanes."""
    for other in frozen[1:]:
        same = jax.tree.map(lambda a, b: a is b or np.array_equal(a, b), frozen[0], other)
        if not all(jax.tree.leaves(same)):
            raise ValueError("trials that run side by side must share what is frozen.")
    return frozen[0]
