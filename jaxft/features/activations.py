"""What frozen units say of images, computed once and kept, in memory and on disk, for all trials that ask.

A frozen prefix's output depends on the weights, the unit, the preprocessing, the image and its view alone. It is
computed in blocks of images that are always the same, so that it has the same bits whichever images are asked for.
On disk it is named after all of that and what computes it: jaxft, JAX, the device.
"""

import collections
import contextlib
import functools
import hashlib
import itertools
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config import Execution
from jaxft.core.cache import cache_dir
from jaxft.core.devices import device_kind
from jaxft.core.errors import say_warnings
from jaxft.core.files import replacing
from jaxft.core.locks import locked
from jaxft.core.paths import flatten, unflatten
from jaxft.core.version import VERSION
from jaxft.data.augmentation.augment import Changes, centre_crop, view
from jaxft.data.streaming import Pixels, at_hand
from jaxft.models import Network, Preprocessing, unit_of
from jaxft.ops.convolution import implementation
from jaxft.ops.pooling import Look
from jaxft.ops.precision import true_products

FORMAT = 2  # to raise where the code gives other outputs, or writes them otherwise
BLOCK = 32  # images computed at a time
VALUES = "<f4"  # how an output is kept
PACK_BYTES = 4 << 20  # of blocks to a file: pooled features have thousands, each of some kilobytes
CHECKSUM_BYTES = 4
ALIGNMENT = 64  # bytes
WRITE_SECONDS = 5.0  # what a killed process may lose
MEANS_AT_ONCE = 128 * BLOCK  # images
SLACK = 0.05  # of the disk's budget: what may be written before the folder is looked at again

Say = Callable[[str], None]
Compute = Callable[[Sequence[int]], Iterable[tuple[int, np.ndarray]]]


@dataclass(frozen=True, eq=False)
class Prefix:
    """The units up to `unit`, which are frozen, before a set of images.

    Attributes:
      variables: flat `params` and `batch_stats`; those of later units do not matter.
      images: [n, h, w, 3] uint8, on the device, or a stream of as many; `fingerprint` identifies them.
      changes: what makes the views of an image, which are drawn from `key` (`data.augment.view`).
      through: a shorter prefix whose outputs are kept too, and which this one goes on from.
      looks: what is kept in the place of the output of `unit`: poolings of outputs up to it, side by side.
    """

    model: Network
    preprocessing: Preprocessing
    unit: str
    variables: Mapping[str, Mapping[str, Any]]
    images: Pixels
    fingerprint: str
    changes: Changes
    key: Any = None
    through: "Prefix | None" = None
    looks: tuple[Look, ...] = ()

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Returns the shape of the output for one image."""
        size_px = self.preprocessing.size_px
        if self.looks:
            return (sum(num_features(self.model, look, size_px) for look in self.looks),)
        return output_shape(self.model, self.unit, size_px)

    def columns(self, look: Look) -> slice:
        """Returns where the features of one of the looks are in the output."""
        sizes = [num_features(self.model, each, self.preprocessing.size_px) for each in self.looks]
        place = self.looks.index(look)
        return slice(sum(sizes[:place]), sum(sizes[: place + 1]))

    @functools.cached_property
    def own(self) -> dict[str, dict[str, Any]]:
        """Returns the variables of the units up to `unit`."""
        units = self.model.units[: self.model.units.index(self.unit) + 1]
        return {
            collection: {name: leaf for name, leaf in leaves.items() if unit_of(name, self.model.units) in units}
            for collection, leaves in self.variables.items()
        }

    @functools.cached_property
    def digests(self) -> tuple[str, str]:
        """Returns what identifies the outputs for the images themselves, and for views of them."""
        total = hashlib.sha256(repr(_made_by()).encode())
        for collection, leaves in sorted(self.own.items()):
            for name, leaf in sorted(leaves.items()):
                total.update(f"{collection}/{name}".encode())
                total.update(np.ascontiguousarray(leaf).tobytes())
        total.update(repr((self.model.architecture, self.model.precision)).encode())
        total.update(repr((self.unit, self.preprocessing, self.fingerprint)).encode())
        if self.looks:
            total.update(repr(self.looks).encode())
        plain = total.hexdigest()
        total.update(repr((self.changes, np.asarray(self.key).tolist())).encode())
        return plain, total.hexdigest()

    @functools.cached_property
    def record(self) -> np.dtype:
        """Returns how a block lies in a file."""
        return np.dtype([("number", "<i8"), ("values", VALUES, (BLOCK, *self.output_shape))])

    def pack_of(self, number: int) -> tuple[str, int]:
        """Returns the file that the block `number` goes to: what identifies the outputs, and which file of them."""
        of_pack = max(PACK_BYTES // self.record.itemsize, 1)
        return self.digests[number >= num_blocks(len(self.images))], number // of_pack

    def outputs_of_block(self, number: int) -> jax.Array:
        """Returns the output for the block `number`: all blocks of images, then all of their first views, and so on."""
        of_view, block = divmod(number, num_blocks(len(self.images)))
        rows = np.minimum(np.arange(block * BLOCK, (block + 1) * BLOCK), len(self.images) - 1)
        run = _make_outputs(self.model, self.preprocessing, self.unit, self.changes, self.looks)
        return run(self._nested, at_hand(self.images, rows), jnp.asarray(rows), jnp.int32(of_view), self.key)

    def outputs_after(self, x: jax.Array) -> jax.Array:
        """Returns the output for a block from that of the shorter prefix."""
        assert self.through is not None
        start = self.model.units[self.model.units.index(self.through.unit) + 1]
        return _make_outputs_after(self.model, start, self.unit)(self._nested, x)

    @functools.cached_property
    def _nested(self) -> dict[str, Any]:
        return {collection: unflatten(leaves) for collection, leaves in self.own.items()}


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
        self._packs = _Packs(folder, max_disk_bytes) if folder and max_disk_bytes else None

    def fits(self, prefix: Prefix, indices: np.ndarray) -> bool:
        """Tells whether all that is kept for these images is within the memory's budget."""
        values = sum(math.prod(p.output_shape) for p in (prefix, prefix.through) if p is not None)
        num_kept = len(np.unique(_blocks(indices, len(prefix.images)))) * BLOCK
        return 4 * values * num_kept <= self.max_bytes

    def outputs(
        self,
        prefix: Prefix,
        indices: np.ndarray,
        say: Say = say_warnings,
        look: Look | None = None,
    ) -> np.ndarray:
        """Returns the output of a prefix for images by index: [indices, ...] float32, which `device_put` need not copy.

        An index is view * n + row, where view 0 is the image itself. `say` is told how far it is, while something has
        to be computed. Of several looks it is that of `look`, where one is named.
        """
        n = len(prefix.images)
        block_of, place = _blocks(indices, n), indices % n % BLOCK
        order = np.argsort(block_of, kind="stable")
        of_block = np.split(order, np.flatnonzero(np.diff(block_of[order])) + 1)
        columns = slice(None) if look is None else prefix.columns(look)
        first, *others = prefix.output_shape
        found = _aligned((len(indices), len(range(first)[columns]), *others))
        for here, block in zip(of_block, self._each(prefix, np.unique(block_of).tolist(), say)):
            found[here] = block[place[here]][:, columns]
        return found

    def _each(self, prefix: Prefix, numbers: Sequence[int], say: Say) -> Iterator[np.ndarray]:
        """Yields the blocks `numbers`, which ascend: from memory, from disk, or computed and kept in both."""
        count = {number: f"{(i + 1) * BLOCK} of {len(numbers) * BLOCK}" for i, number in enumerate(numbers)}

        def compute(missing: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
            for number, block in zip(missing, self._computed(prefix, missing)):
                say(f"features of {prefix.unit}: {count[number]} images")
                yield number, block

        for pack, of_pack in itertools.groupby(numbers, prefix.pack_of):
            names = [(pack[0], number) for number in of_pack]
            found = {name[1]: self._kept[name] for name in names if name in self._kept}
            missing = [number for _, number in names if number not in found]
            if missing:
                packs = self._packs
                found |= packs.blocks(pack, prefix.record, missing, compute, say) if packs else dict(compute(missing))
            for name in names:
                self._keep(name, found[name[1]])
                yield found[name[1]]

    def _computed(self, prefix: Prefix, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        if prefix.through is None:
            yield from (np.asarray(prefix.outputs_of_block(number)) for number in numbers)
        else:
            for block in self._each(prefix.through, numbers, say_warnings):
                yield np.asarray(prefix.outputs_after(jnp.asarray(block)))

    def _keep(self, name: tuple[str, int], block: np.ndarray) -> None:
        if name not in self._kept:
            self._kept[name] = block
            self._num_bytes += block.nbytes
        self._kept.move_to_end(name)
        while self._num_bytes > self.max_bytes:
            self._num_bytes -= self._kept.popitem(last=False)[1].nbytes


def make_feature_cache(execution: Execution) -> FeatureCache:
    """Returns the cache that a run's budgets allow, with what earlier runs left on disk."""
    return FeatureCache(execution.feature_cache_bytes, cache_dir() / "features", execution.feature_disk_bytes)


def class_means(
    model: Network,
    preprocessing: Preprocessing,
    variables: Mapping[str, Any],
    images: Pixels,
    fingerprint: str,
    rows: np.ndarray,
    labels: np.ndarray,
    cache: FeatureCache,
) -> np.ndarray:
    """Returns the mean over the images of each class of what leaves the unit below the head: [classes, features].

    Args:
      images: [n, size, size, 3] uint8; `fingerprint` identifies them.
      rows: [m] images to use; `labels`: [m] their classes, those of the means in ascending order.
    """
    flat = {collection: flatten(variables.get(collection, {})) for collection in ("params", "batch_stats")}
    prefix = Prefix(model, preprocessing, model.units[-2], flat, images, fingerprint, Changes())
    classes, of_row = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), prefix.output_shape[-1]))
    for begin in range(0, len(rows), MEANS_AT_ONCE):  # whose maps are in memory at a time
        outputs = cache.outputs(prefix, rows[begin : begin + MEANS_AT_ONCE])
        pooled = outputs.reshape(len(outputs), -1, outputs.shape[-1]).mean(axis=1, dtype=np.float64)
        np.add.at(sums, of_row[begin : begin + MEANS_AT_ONCE], pooled)
    return sums / np.bincount(of_row)[:, None]


class _Packs:
    """Blocks in a folder, shared by all processes, within a budget of bytes; files used longest ago are dropped first.

    A file has records of a number and its block, and their checksum, which is compared each time the file is read. A
    file appears whole and may vanish at any time; the blocks of a damaged one are computed again. A folder that cannot
    be written costs time, nothing else.
    """

    def __init__(self, folder: Path, max_bytes: float):
        self.folder, self.max_bytes = folder, max_bytes
        self._room = 0.0  # bytes to write before the folder is looked at
        self._has_said = False

    def blocks(
        self, pack: tuple[str, int], record: np.dtype, numbers: Sequence[int], compute: Compute, say: Say
    ) -> dict[int, np.ndarray]:
        """Returns at least the blocks `numbers` of a file; those it lacks are computed by one process at a time."""
        digest, index = pack
        path = self.folder / f"{digest}-{index}.pack"
        found = self._read(path, record, say)
        if all(number in found for number in numbers):
            return found
        with self._alone(digest, say):
            found = self._read(path, record)  # who was alone before may have computed them
            missing = [number for number in numbers if number not in found]
            written = time.monotonic()
            for number, block in compute(missing):
                found[number] = block
                if number == missing[-1] or time.monotonic() - written > WRITE_SECONDS:
                    self._write(path, record, found, say)
                    written = time.monotonic()
        return found

    @contextlib.contextmanager
    def _alone(self, digest: str, say: Say) -> Iterator[None]:
        path = self.folder / f"{digest}.lock"
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                if not stack.enter_context(locked(path, wait=False)):
                    say("features: waiting for another process that computes the same")
                    stack.enter_context(locked(path))
            yield

    def _read(self, path: Path, record: np.dtype, say: Say = lambda line: None) -> dict[int, np.ndarray]:
        """Returns the blocks in a file, which is now the one used last."""
        try:
            content = memoryview(path.read_bytes())
        except OSError:
            return {}
        content, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        if checksum != _checksum(content, record):
            say(f"warning: the features in {str(path)!r} do not match their checksum; they are computed again")
            return {}
        with contextlib.suppress(OSError):
            os.utime(path)
        records = np.frombuffer(content, record)
        return {number: values.copy() for number, values in zip(records["number"].tolist(), records["values"])}

    def _write(self, path: Path, record: np.dtype, blocks: Mapping[int, np.ndarray], say: Say) -> None:
        records = np.empty(len(blocks), record)
        records["number"] = list(blocks)
        for values, block in zip(records["values"], blocks.values()):
            values[...] = block
        content = records.view(np.uint8).data
        num_bytes = len(content) + CHECKSUM_BYTES
        if num_bytes > self.max_bytes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if num_bytes > self._room:
                self._make_room(num_bytes)
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.write(content)
                file.write(_checksum(content, record))
            self._room -= num_bytes
        except OSError as error:
            if not self._has_said:
                say(f"features cannot be kept in {str(self.folder)!r}: {os.strerror(error.errno or 0).lower()}")
            self._has_said = True

    def _make_room(self, num_bytes: int) -> None:
        """Looks at all that is there, and drops what was used longest ago until so many bytes fit."""
        found = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        if total + num_bytes > self.max_bytes:
            for _, size, path in sorted(found):
                if size and total + num_bytes > (1 - SLACK) * self.max_bytes:  # a lock is empty, and stays
                    path.unlink(missing_ok=True)
                    total -= size
        self._room = max(min(self.max_bytes - total, SLACK * self.max_bytes), num_bytes)


def _checksum(content: memoryview, record: np.dtype) -> bytes:
    """Returns the checksum of records, which is another where they are to be read as others."""
    return zlib.crc32(content, zlib.crc32(str(record).encode())).to_bytes(CHECKSUM_BYTES, "little")


def _made_by() -> tuple[Any, ...]:
    """Returns what the bits of an output depend on besides its prefix: what computes it."""
    code = FORMAT, BLOCK, VALUES, VERSION, jax.__version__, version("jaxlib")
    device = jax.default_backend(), device_kind()
    return *code, *device, implementation()[0]


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array of float32 that lies so that a CPU's `device_put` takes it as it is."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)


def _blocks(indices: np.ndarray, num_images: int) -> np.ndarray:
    """Returns the block that each index is in."""
    return indices // num_images * num_blocks(num_images) + indices % num_images // BLOCK


def num_blocks(num_images: int) -> int:
    """Returns how many blocks a set of images is computed in."""
    return -(-num_images // BLOCK)


@functools.cache
def _make_outputs(
    model: Network, preprocessing: Preprocessing, unit: str, changes: Changes, looks: tuple[Look, ...]
) -> Callable[..., jax.Array]:
    @jax.jit
    @true_products
    def outputs(variables: Any, images: jax.Array, rows: jax.Array, number: jax.Array, key: Any) -> jax.Array:
        x = images[rows]
        if not changes.is_none:
            numbers = jnp.broadcast_to(number, rows.shape)
            itself = centre_crop(x, changes.crop_px)
            x = jax.lax.cond(number == 0, lambda: itself, lambda: view(key, x, rows, numbers, changes))
        if looks:
            return _looked_at(model, variables, preprocessing.apply(x), looks)
        return model.apply(variables, preprocessing.apply(x), stop=unit)

    return outputs


def _looked_at(model: Network, variables: Any, x: jax.Array, looks: Sequence[Look]) -> jax.Array:
    """Returns [n, features] of `x`, the network's input: what each look makes of it, side by side, in one pass."""
    outputs, start = {}, None
    for unit in sorted({unit for look in looks for unit in look.units}, key=model.units.index):
        outputs[unit] = x = model.apply(variables, x, start=start, stop=unit)
        start = model.units[model.units.index(unit) + 1]
    return jnp.concatenate([look.of(outputs) for look in looks], axis=1)


@functools.cache
def _make_outputs_after(model: Network, start: str, unit: str) -> Callable[..., jax.Array]:
    @jax.jit
    def outputs_after(variables: Any, x: jax.Array) -> jax.Array:
        return model.apply(variables, x, start=start, stop=unit)

    return outputs_after


def output_shape(model: Network, unit: str, size_px: int) -> tuple[int, ...]:
    """Returns the shape of the output of `unit` for one image."""
    return _output_shapes(model, size_px)[unit]


@functools.cache
def _output_shapes(model: Network, size_px: int) -> dict[str, tuple[int, ...]]:
    """Returns the shape of the output of every unit for one image, from one pass through the network."""
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    key = jax.random.key(0)

    def outputs(x: jax.Array) -> dict[str, jax.Array]:
        found = {}
        for unit in model.units:
            found[unit] = x = model.init_with_output(key, x, start=unit, stop=unit)[0]
        return found

    return {unit: output.shape[1:] for unit, output in jax.eval_shape(outputs, images).items()}


@functools.cache
def num_features(model: Network, look: Look, size_px: int) -> int:
    """Returns how many features a look makes of an image."""
    shapes = {unit: jax.ShapeDtypeStruct((1, *output_shape(model, unit, size_px)), jnp.float32) for unit in look.units}
    return jax.eval_shape(look.of, shapes).shape[1]
