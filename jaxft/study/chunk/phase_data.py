"""What the steps of a phase read: images or activations of its frozen prefix, labels, indices of batches."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.text import byte_size
from jaxft.data.batches import StepRange, balanced_indices, batch_indices
from jaxft.data.streaming import Pixels, Stream, Windows
from jaxft.features.prefix import Prefix
from jaxft.study.chunk.compiled import MOST_STEPS
from jaxft.study.chunk.lanes import Chunk, SharedImages
from jaxft.study.chunk.prefixes import prefix_of
from jaxft.study.chunk.source_arrays import load_source_arrays
from jaxft.study.services import Services
from jaxft.training.phase import Phase
from jaxft.training.state import Frozen


@dataclass(frozen=True, eq=False)
class PhaseData:
    """What a phase reads: images, or what its frozen prefix says of them, and their labels [trials, images].

    `indices` are those of its batches; `row_of` tells where among the images that of an index is; none: there. Of a
    stream the `windows` are read.
    """

    phase: Phase
    frozen: Frozen
    images: Pixels
    labels: jax.Array
    indices: jax.Array
    row_of: np.ndarray | None = None
    windows: Windows | None = None

    @property
    def frozen_for_evaluation(self) -> Frozen:
        """Returns what is frozen, without what regularizers need: the same program evaluates with and without."""
        return self.frozen._replace(source_arrays=None)

    def at_step(self, step: int) -> tuple[Any, int]:
        """Returns images that a step of the phase can read, and for how many steps from it on they will do."""
        return (self.images, MOST_STEPS) if self.windows is None else self.windows.at(step)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Returns where the images of `indices` are."""
        return indices if self.row_of is None else self.row_of[indices]

    def with_images(self, inputs: "Inputs") -> "PhaseData":
        """Returns the feed of the images themselves."""
        phase = dataclasses.replace(self.phase, from_features=False)
        return dataclasses.replace(self, phase=phase, images=inputs.images.pixels, labels=inputs.labels, row_of=None)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The images of all trials, and the labels [trials, images], on the devices."""

    images: SharedImages
    labels: jax.Array


def prepare_phase_data(chunk: Chunk, number: int, frozen: Frozen, inputs: Inputs, services: Services) -> PhaseData:
    """Returns the feed of the phase of a number, whose frozen variables are `frozen`.

    It has the images, or the outputs of the phase's frozen prefix where these cannot vary and fit in memory.
    """
    phase = chunk.program.phases[number]
    builder = _PhaseDataBuilder(chunk, phase, frozen, inputs, services, batches_of(chunk, number, len(inputs.images)))
    prefix = builder.cached_prefix()
    return builder.from_images() if prefix is None else builder.from_features(prefix)


def batches_of(chunk: Chunk, number: int, num_images: int) -> np.ndarray:
    """Returns the images of every step of the phase of a number: [trials, steps, batch], each view * n + row."""
    phase = chunk.program.phases[number]
    first, steps = (0, 1) if phase.is_full_batch else (chunk.program.steps_before(number), phase.num_steps)
    step_range = StepRange(first, steps, phase.batch_size, max(phase.views, 1), num_images)
    return np.stack(
        [
            balanced_indices(lane.train, lane.labels, lane.order_seed, step_range)
            if lane.balanced
            else batch_indices(lane.train, lane.order_seed, step_range)
            for lane in chunk.lanes
        ]
    )


@dataclass(frozen=True, eq=False)
class _PhaseDataBuilder:
    chunk: Chunk
    phase: Phase
    frozen: Frozen
    inputs: Inputs
    services: Services
    indices: np.ndarray  # [trials, steps, batch]

    def from_images(self) -> PhaseData:
        """Returns the feed of the images themselves."""
        executor, pixels, windows = self.chunk.executor, self.inputs.images.pixels, None
        if isinstance(pixels, Stream):
            if self.phase.is_full_batch:
                raise UserError(
                    "'training.linear_probe.optimizer' is 'lbfgs', whose every step is over all images, but they take "
                    f"{byte_size(pixels.images.nbytes)}; raise 'execution.device_data_bytes', or use 'same'."
                )
            windows = Windows(pixels, self.indices % len(pixels), executor.put_shared)
        frozen = self._with_source_arrays(np.arange(self._num_views * len(pixels)))
        return PhaseData(
            self.phase, frozen, pixels, self.inputs.labels, executor.put_batches(self.indices), windows=windows
        )

    def from_features(self, prefix: Prefix) -> PhaseData:
        """Returns the feed of the outputs of the phase's frozen prefix."""
        executor, features, needed = self.chunk.executor, self.services.cache, self._needed
        num_images = len(self.inputs.images)
        row_of = np.full(self._num_views * num_images, -1, np.int32)
        row_of[needed] = np.arange(len(needed))
        outputs = executor.put_shared(features.outputs(prefix, needed, self.services.emit))
        labels = executor.put(np.asarray(self.inputs.labels)[:, needed % num_images])
        phase = dataclasses.replace(self.phase, from_features=True)
        frozen = self._with_source_arrays(needed)
        return PhaseData(phase, frozen, outputs, labels, executor.put_batches(row_of[self.indices]), row_of)

    def cached_prefix(self) -> Prefix | None:
        """Returns the phase's frozen prefix; None where its outputs vary, or do not fit in memory."""
        features, phase = self.services.features, self.phase
        if features is None or phase.prefix is None or not phase.keeps_prefix:
            return None
        # A later phase begins lower down: what it will ask for is kept on the way.
        order = phase.model.blocks.index
        lower = min((p.prefix for p in self.chunk.program.phases if p.prefix), key=order)
        through = self._prefix_to(lower, None) if order(lower) < order(phase.prefix) else None
        prefix = self._prefix_to(phase.prefix, through)
        if not features.fits(prefix, self._needed):
            prefix = dataclasses.replace(prefix, through=None)
        return prefix if features.fits(prefix, self._needed) else None

    def _prefix_to(self, block: str, through: Prefix | None) -> Prefix:
        variables = {"params": self.frozen.params, "batch_stats": self.frozen.batch_stats}
        return prefix_of(self.phase, block, variables, self.inputs.images, self.chunk.lanes[0], through)

    @property
    def _num_views(self) -> int:
        return max(self.phase.views, 1)

    @functools.cached_property
    def _needed(self) -> np.ndarray:
        """Returns the images and views that are trained or evaluated on, in ascending order."""
        recalibrates = self.phase.recalibrates
        evaluated = [
            rows
            for lane in self.chunk.lanes
            for rows in ((lane.val, lane.test, lane.train) if recalibrates else (lane.val, lane.test))
        ]
        return np.unique(np.concatenate([self.indices.ravel(), *evaluated]))

    def _with_source_arrays(self, rows: np.ndarray) -> Frozen:
        """Returns what is frozen, with what regularizers need of the source."""
        source_arrays = load_source_arrays(
            self.phase, self.chunk.lanes, self.inputs.images, self.services, self.indices, rows
        )
        return self.frozen._replace(source_arrays=self.chunk.executor.put_shared(source_arrays))


def shared_frozen(frozen: Sequence[Frozen]) -> Frozen:
    """Returns what is frozen, which must be the same in all lanes."""
    for other in frozen[1:]:
        same = jax.tree.map(lambda a, b: a is b or np.array_equal(a, b), frozen[0], other)
        if not all(jax.tree.leaves(same)):
            raise ValueError("trials that run side by side must share what is frozen.")
    return frozen[0]
