"""A cache of activations of frozen layers, in memory and on disk. All trials share it.

The output of a frozen prefix depends only on its weights, its last block, the preprocessing, the image and the view of
the image. Outputs are computed in fixed batches of images, so the output for an image is bit-identical, no matter which
other images are requested. File names on disk contain a digest of the weights, the block, the preprocessing, the image
set, the augmentations of the views, the versions of jaxft and JAX, the kind of device, and the convolution library.
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

ALIGNMENT = 64  # bytes; on a CPU, XLA copies arrays with a smaller alignment


class FeatureCache:
    """A cache of outputs of frozen prefixes, with budgets in bytes. If a budget is exceeded, the least recently
    used outputs are dropped first.

    Args:
      max_bytes: budget in memory.
      folder: folder on disk, which other processes can share. If None, nothing is stored on disk.
      max_disk_bytes: budget on disk.
    """

    def __init__(self, max_bytes: float, folder: Path | None = None, max_disk_bytes: float = math.inf):
        self.max_bytes = max_bytes
        self._num_bytes = 0
        self._in_memory: collections.OrderedDict[tuple[str, int], np.ndarray] = collections.OrderedDict()
        self._packs = Packs(folder, max_disk_bytes) if folder and max_disk_bytes else None

    def fits(self, prefix: Prefix, indices: np.ndarray) -> bool:
        """Returns whether the outputs for `indices: [k]` fit into the memory budget.

        The outputs of the shorter prefix and the other images of the same batches are included: both are cached too.
        """
        values = sum(math.prod(p.output_shape) for p in (prefix, prefix.shorter_prefix) if p is not None)
        num_rows = len(np.unique(batches_of(indices, len(prefix.images)))) * BATCH_SIZE
        return 4 * values * num_rows <= self.max_bytes

    def outputs(
        self,
        prefix: Prefix,
        indices: np.ndarray,
        emit: Listener = print_warnings,
        feature_spec: FeatureSpec | None = None,
    ) -> np.ndarray:
        """Returns the outputs of a prefix for k images, [k, ...] float32, aligned for `device_put` without a copy.

        Args:
          prefix: the frozen prefix, with n images.
          indices: [k]; an index is view * n + row. View 0 is the image without augmentation.
          emit: receives an event for each computed batch.
          feature_spec: the features to return, if the prefix computes several. If None, all are returned.
        """
        n = len(prefix.images)
        batch_of, row_in_batch = batches_of(indices, n), indices % n % BATCH_SIZE
        order = np.argsort(batch_of, kind="stable")
        rows_by_batch = np.split(order, np.flatnonzero(np.diff(batch_of[order])) + 1)
        columns = slice(None) if feature_spec is None else prefix.columns(feature_spec)
        first, *others = prefix.output_shape
        outputs = aligned((len(indices), len(range(first)[columns]), *others))
        for rows, batch in zip(rows_by_batch, self._batches(prefix, np.unique(batch_of).tolist(), emit)):
            outputs[rows] = batch[row_in_batch[rows]][:, columns]
        return outputs

    def _batches(self, prefix: Prefix, numbers: Sequence[int], emit: Listener) -> Iterator[np.ndarray]:
        """Yields the batches with the ascending `numbers`, from memory or disk; missing batches are computed."""
        done = {number: (i + 1) * BATCH_SIZE for i, number in enumerate(numbers)}

        def compute(missing: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
            for number, batch in zip(missing, self._compute(prefix, missing)):
                emit(FeaturesComputed(prefix.block, done[number], len(numbers) * BATCH_SIZE))
                yield number, batch
                interrupts.check()

        for pack, numbers_in_pack in itertools.groupby(numbers, prefix.pack_of):
            names = [(pack[0], number) for number in numbers_in_pack]
            batches = {name[1]: self._in_memory[name] for name in names if name in self._in_memory}
            missing = [number for _, number in names if number not in batches]
            if missing:
                packs = self._packs
                batches |= (
                    packs.batches(pack, prefix.record, missing, compute, emit) if packs else dict(compute(missing))
                )
            for name in names:
                self._store(name, batches[name[1]])
                yield batches[name[1]]

    def _compute(self, prefix: Prefix, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        if prefix.shorter_prefix is None:
            yield from (np.asarray(prefix.outputs_of_batch(number)) for number in numbers)
        else:
            for batch in self._batches(prefix.shorter_prefix, numbers, print_warnings):
                yield np.asarray(prefix.outputs_after(jnp.asarray(batch)))

    def _store(self, name: tuple[str, int], batch: np.ndarray) -> None:
        if name not in self._in_memory:
            self._in_memory[name] = batch
            self._num_bytes += batch.nbytes
        self._in_memory.move_to_end(name)
        while self._num_bytes > self.max_bytes:
            self._num_bytes -= self._in_memory.popitem(last=False)[1].nbytes


def make_feature_cache(execution: Execution) -> FeatureCache:
    """Returns a cache with the budgets of `execution`; it can read outputs of earlier runs from the cache folder."""
    return FeatureCache(execution.feature_cache_bytes, cache_dir() / "features", execution.feature_disk_bytes)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an uninitialized float32 array of shape `shape` that `device_put` on a CPU does not copy."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)
