"""The data of a phase: images, or activations of its frozen prefix; labels; and row indices of the batches."""

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
from jaxft.study.chunk.compiled import MAX_LOOP_STEPS
from jaxft.study.chunk.lanes import Chunk, SharedImages
from jaxft.study.chunk.prefixes import prefix_of
from jaxft.study.chunk.source_arrays import load_source_arrays
from jaxft.study.services import Services
from jaxft.training.phase import Phase
from jaxft.training.state import Frozen


@dataclass(frozen=True, eq=False)
class PhaseData:
    """The data of a phase, on the devices.

    Attributes:
      phase: the phase.
      frozen: its frozen variables.
      images: [rows, h, w, 3] uint8, a stream, or activations of the frozen prefix [rows, ...] float32.
      labels: [trials, rows] int32.
      indices: [trials, steps, batch] int32, rows of `images`.
      row_of: [views * n] int32, the row of `images` of each view * n + image; None if `images` are the images
        themselves.
      windows: the windows of a stream; None without a stream.
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
        """Returns the frozen variables without source arrays, so evaluation is the same program in all phases."""
        return self.frozen._replace(source_arrays=None)

    def at_step(self, step: int) -> tuple[Any, int]:
        """Returns (images, number of steps that can use them), starting with a step of the phase."""
        return (self.images, MAX_LOOP_STEPS) if self.windows is None else self.windows.at(step)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Returns the rows in `images` of indices (view * n + image): an array of the same shape, [...] int32."""
        return indices if self.row_of is None else self.row_of[indices]

    def with_images(self, inputs: "Inputs") -> "PhaseData":
        """Returns the data of the same phase with images instead of activations."""
        phase = dataclasses.replace(self.phase, from_features=False)
        return dataclasses.replace(self, phase=phase, images=inputs.images.pixels, labels=inputs.labels, row_of=None)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The images of all trials, and the labels [trials, n] int32, on the devices."""

    images: SharedImages
    labels: jax.Array


def prepare_phase_data(chunk: Chunk, number: int, frozen: Frozen, inputs: Inputs, services: Services) -> PhaseData:
    """Returns the data of a phase: images, or outputs of its frozen prefix if they do not vary and fit into memory.

    Args:
      chunk: the trials.
      number: number of the phase, counted from 0.
      frozen: the frozen variables of the phase.
      inputs: images and labels.
      services: feature cache, listener and clock.

    Raises:
      UserError: the phase needs all images in every step, but they are streamed.
    """
    phase = chunk.program.phases[number]
    builder = _PhaseDataBuilder(chunk, phase, frozen, inputs, services, batches_of(chunk, number, len(inputs.images)))
    prefix = builder.cached_prefix()
    return builder.from_images() if prefix is None else builder.from_features(prefix)


def batches_of(chunk: Chunk, number: int, num_images: int) -> np.ndarray:
    """Returns the indices of all batches of a phase: [trials, steps, batch] int32, each view * n + image."""
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
        """Returns the data of the phase with the images.

        Raises:
          UserError: every step needs all images, but they are streamed.
        """
        executor, pixels, windows = self.chunk.executor, self.inputs.images.pixels, None
        if isinstance(pixels, Stream):
            if self.phase.is_full_batch:
                raise UserError(
                    "config field 'training.linear_probe.optimizer' is 'lbfgs', which needs all images in every step, "
                    f"but they take {byte_size(pixels.images.nbytes)} and are streamed; raise "
                    "'execution.device_data_bytes', or use 'same'."
                )
            windows = Windows(pixels, self.indices % len(pixels), executor.put_shared)
        frozen = self._with_source_arrays(np.arange(self._num_views * len(pixels)))
        return PhaseData(
            self.phase, frozen, pixels, self.inputs.labels, executor.put_batches(self.indices), windows=windows
        )

    def from_features(self, prefix: Prefix) -> PhaseData:
        """Returns the data of the phase with the outputs of its frozen prefix."""
        executor, features, needed_indices = self.chunk.executor, self.services.cache, self._needed_indices
        num_images = len(self.inputs.images)
        row_of = np.full(self._num_views * num_images, -1, np.int32)
        row_of[needed_indices] = np.arange(len(needed_indices))
        outputs = executor.put_shared(features.outputs(prefix, needed_indices, self.services.emit))
        labels = executor.put(np.asarray(self.inputs.labels)[:, needed_indices % num_images])
        phase = dataclasses.replace(self.phase, from_features=True)
        frozen = self._with_source_arrays(needed_indices)
        return PhaseData(phase, frozen, outputs, labels, executor.put_batches(row_of[self.indices]), row_of)

    def cached_prefix(self) -> Prefix | None:
        """Returns the frozen prefix of the phase, or None if its outputs vary or do not fit into memory."""
        features, phase = self.services.features, self.phase
        if features is None or phase.prefix is None or not phase.can_cache_prefix:
            return None
        # If a later phase has a shorter prefix, the outputs of the shorter prefix are cached on the way.
        order = phase.model.blocks.index
        lower = min((p.prefix for p in self.chunk.program.phases if p.prefix), key=order)
        through = self._prefix_to(lower, None) if order(lower) < order(phase.prefix) else None
        prefix = self._prefix_to(phase.prefix, through)
        if not features.fits(prefix, self._needed_indices):
            prefix = dataclasses.replace(prefix, shorter_prefix=None)
        return prefix if features.fits(prefix, self._needed_indices) else None

    def _prefix_to(self, block: str, through: Prefix | None) -> Prefix:
        variables = {"params": self.frozen.params, "batch_stats": self.frozen.batch_stats}
        return prefix_of(self.phase, block, variables, self.inputs.images, self.chunk.lanes[0], through)

    @property
    def _num_views(self) -> int:
        return max(self.phase.views, 1)

    @functools.cached_property
    def _needed_indices(self) -> np.ndarray:
        """Returns the indices (view * n + image) for training and evaluation: [rows], ascending."""
        recalibrates = self.phase.recalibrates
        evaluated = [
            rows
            for lane in self.chunk.lanes
            for rows in ((lane.val, lane.test, lane.train) if recalibrates else (lane.val, lane.test))
        ]
        return np.unique(np.concatenate([self.indices.ravel(), *evaluated]))

    def _with_source_arrays(self, rows: np.ndarray) -> Frozen:
        """Returns the frozen variables with the source arrays that the regularizers need, for rows `rows`."""
        source_arrays = load_source_arrays(
            self.phase, self.chunk.lanes, self.inputs.images, self.services, self.indices, rows
        )
        return self.frozen._replace(source_arrays=self.chunk.executor.put_shared(source_arrays))


def shared_frozen(frozen: Sequence[Frozen]) -> Frozen:
    """Returns the frozen variables that the trials of a chunk share, from a list with one entry per trial.

    Raises:
      ValueError: frozen variables differ between trials.
    """
    for variables in frozen[1:]:
        is_equal = jax.tree.map(lambda a, b: a is b or np.array_equal(a, b), frozen[0], variables)
        if not all(jax.tree.leaves(is_equal)):
            raise ValueError("the frozen variables of trials that run together differ; they must be equal.")
    return frozen[0]
