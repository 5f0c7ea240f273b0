"""Activations of frozen layers, computed once for all trials, and cached in memory and on disk.

A frozen prefix's output depends on the weights, the unit, the preprocessing, the image and its view alone. It is
computed in blocks of images that are always the same, so that it has the same bits whichever images are asked for.
On disk it is named after all of that and what computes it: jaxft, JAX, the device.
"""

import collections
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxft.config import Execution
from jaxft.core import interrupts
from jaxft.core.cache import cache_dir
from jaxft.core.events import FeaturesComputed, Listener, print_warnings
from jaxft.features.feature_spec import FeatureSpec
from jaxft.features.packs import Packs
from jaxft.features.prefix import BATCH_SIZE, Prefix, batches_of

ALIGNMENT = 64  # bytes


class FeatureCache:
    """The outputs of frozen prefixes, within budgets of bytes; those used longest ago are dropped first.

    Args:
      max_bytes: for what is kept in memory.
      folder: where it is kept on disk too, and shared with other processes; none: nowhere.
      max_disk_bytes: for what is kept there.
    """

    def __init__(self, max_bytes: float, folder: Path | None = None, max_disk_bytes: float = math.inf):
        self.max_bytes = max_bytes
        self._num_bytes = 0
        self._kept: collections.OrderedDict[tuple[str, int], np.ndarray] = collections.OrderedDict()
        self._packs = Packs(folder, max_disk_bytes) if folder and max_disk_bytes else None

    def fits(self, prefix: Prefix, indices: np.ndarray) -> bool:
        """Tells whether all that is kept for these images is within the memory's budget."""
        values = sum(math.prod(p.output_shape) for p in (prefix, prefix.through) if p is not None)
        num_kept = len(np.unique(batches_of(indices, len(prefix.images)))) * BATCH_SIZE
        return 4 * values * num_kept <= self.max_bytes

    def outputs(
        self,
        prefix: Prefix,
        indices: np.ndarray,
        emit: Listener = print_warnings,
        feature_spec: FeatureSpec | None = None,
    ) -> np.ndarray:
        """Returns the output of a prefix for images by index: [indices, ...] float32, which `device_put` need not copy.

        An index is view * n + row, where view 0 is the image itself. `emit` hears how far it is, while something
        has to be computed. Of several features they are those
        of `feature_spec`, if it is given.
        """
        n = len(prefix.images)
        batch_of, row_in_batch = batches_of(indices, n), indices % n % BATCH_SIZE
        order = np.argsort(batch_of, kind="stable")
        of_batch = np.split(order, np.flatnonzero(np.diff(batch_of[order])) + 1)
        columns = slice(None) if feature_spec is None else prefix.columns(feature_spec)
        first, *others = prefix.output_shape
        outputs = aligned((len(indices), len(range(first)[columns]), *others))
        for rows, batch in zip(of_batch, self._each(prefix, np.unique(batch_of).tolist(), emit)):
            outputs[rows] = batch[row_in_batch[rows]][:, columns]
        return outputs

    def _each(self, prefix: Prefix, numbers: Sequence[int], emit: Listener) -> Iterator[np.ndarray]:
        """Yields the blocks `numbers`, which ascend: from memory, from disk, or computed and kept in both."""
        done = {number: (i + 1) * BATCH_SIZE for i, number in enumerate(numbers)}

        def compute(missing: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
            for number, batch in zip(missing, self._computed(prefix, missing)):
                emit(FeaturesComputed(prefix.block, done[number], len(numbers) * BATCH_SIZE))
                yield number, batch
                interrupts.check()

        for pack, of_pack in itertools.groupby(numbers, prefix.pack_of):
            names = [(pack[0], number) for number in of_pack]
            batches = {name[1]: self._kept[name] for name in names if name in self._kept}
            missing = [number for _, number in names if number not in batches]
            if missing:
                packs = self._packs
                batches |= (
                    packs.batches(pack, prefix.record, missing, compute, emit) if packs else dict(compute(missing))
                )
            for name in names:
                self._keep(name, batches[name[1]])
                yield batches[name[1]]

    def _computed(self, prefix: Prefix, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        if prefix.through is None:
            yield from (np.asarray(prefix.outputs_of_batch(number)) for number in numbers)
        else:
            for batch in self._each(prefix.through, numbers, print_warnings):
                yield np.asarray(prefix.outputs_after(jnp.asarray(batch)))

    def _keep(self, name: tuple[str, int], batch: np.ndarray) -> None:
        if name not in self._kept:
            self._kept[name] = batch
            self._num_bytes += batch.nbytes
        self._kept.move_to_end(name)
        while self._num_bytes > self.max_bytes:
            self._num_bytes -= self._kept.popitem(last=False)[1].nbytes


def make_feature_cache(execution: Execution) -> FeatureCache:
    """Returns the cache that a run's budgets allow, with what earlier runs left on disk."""
    return FeatureCache(execution.feature_cache_bytes, cache_dir() / "features", execution.feature_disk_bytes)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array of float32 that lies so that a CPU's `device_put` takes it as it is."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)
