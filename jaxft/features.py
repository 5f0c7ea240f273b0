"""What frozen units say of images, computed once and kept in memory for all trials that ask.

A frozen prefix's output depends on the weights, the unit, the preprocessing, the image and its view alone. It is
computed in blocks of images that are always the same, so that it has the same bits whichever images are asked for.
"""

import collections
import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.augment import Changes, view
from jaxft.models import Network, Preprocessing, unit_of
from jaxft.paths import unflatten

BLOCK = 32  # images computed at a time


@dataclass(frozen=True, eq=False)
class Prefix:
    """The units up to `unit`, which are frozen, before a set of images.

    Attributes:
      variables: flat `params` and `batch_stats`; those of later units do not matter.
      images: [n, h, w, 3] uint8, on the device; `fingerprint` identifies them.
      changes: what makes the views of an image, which are drawn from `key` (`data.augment.view`).
      through: a shorter prefix whose outputs are kept too, and which this one goes on from.
    """

    model: Network
    preprocessing: Preprocessing
    unit: str
    variables: Mapping[str, Mapping[str, Any]]
    images: jax.Array
    fingerprint: str
    changes: Changes
    key: Any = None
    through: "Prefix | None" = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Returns the shape of the output for one image."""
        return output_shape(self.model, self.unit, self.images.shape[1])

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
        total = hashlib.sha256()
        for collection, leaves in sorted(self.own.items()):
            for name, leaf in sorted(leaves.items()):
                total.update(f"{collection}/{name}".encode())
                total.update(np.ascontiguousarray(leaf).tobytes())
        total.update(repr((self.model.architecture, self.unit, self.preprocessing, self.fingerprint)).encode())
        plain = total.hexdigest()
        total.update(repr((self.changes, np.asarray(self.key).tolist())).encode())
        return plain, total.hexdigest()

    def outputs_of_block(self, number: int) -> jax.Array:
        """Returns the output for the block `number`: all blocks of images, then all of their first views, and so on."""
        of_view, block = divmod(number, num_blocks(len(self.images)))
        rows = np.minimum(np.arange(block * BLOCK, (block + 1) * BLOCK), len(self.images) - 1)
        run = _make_outputs(self.model, self.preprocessing, self.unit, self.changes)
        return run(self._nested, self.images, jnp.asarray(rows), jnp.int32(of_view), self.key)

    def outputs_after(self, x: jax.Array) -> jax.Array:
        """Returns the output for a block from that of the shorter prefix."""
        assert self.through is not None
        start = self.model.units[self.model.units.index(self.through.unit) + 1]
        return _make_outputs_after(self.model, start, self.unit)(self._nested, x)

    @functools.cached_property
    def _nested(self) -> dict[str, Any]:
        return {collection: unflatten(leaves) for collection, leaves in self.own.items()}


class FeatureCache:
    """The outputs of frozen prefixes, within a budget of bytes; those used longest ago are dropped first."""

    def __init__(self, max_bytes: float):
        self.max_bytes = max_bytes
        self._num_bytes = 0
        self._kept: collections.OrderedDict[tuple[str, int], np.ndarray] = collections.OrderedDict()

    def fits(self, prefix: Prefix, indices: np.ndarray) -> bool:
        """Tells whether all that is kept for these images is within the budget."""
        values = sum(math.prod(p.output_shape) for p in (prefix, prefix.through) if p is not None)
        num_kept = len(np.unique(_blocks(indices, len(prefix.images)))) * BLOCK
        return 4 * values * num_kept <= self.max_bytes

    def outputs(
        self, prefix: Prefix, indices: np.ndarray, say: Callable[[str], None] = lambda line: None
    ) -> np.ndarray:
        """Returns the output of a prefix for images by index: [indices, ...] float32.

        An index is view * n + row, where view 0 is the image itself. `say` is told how far it is, while something has
        to be computed.
        """
        n = len(prefix.images)
        block_of, place = _blocks(indices, n), indices % n % BLOCK
        numbers = [int(number) for number in np.unique(block_of)]
        missing = sum(self._name(prefix, number) not in self._kept for number in numbers)
        found, done = np.empty((len(indices), *prefix.output_shape), np.float32), 0
        order = np.argsort(block_of, kind="stable")
        for here in np.split(order, np.flatnonzero(np.diff(block_of[order])) + 1):
            number = int(block_of[here[0]])
            is_new = self._name(prefix, number) not in self._kept
            found[here] = self._block(prefix, number)[place[here]]
            if is_new:
                done += 1
                say(f"features of {prefix.unit}: {done * BLOCK} of {missing * BLOCK} images")
        return found

    def _name(self, prefix: Prefix, number: int) -> tuple[str, int]:
        return prefix.digests[number >= num_blocks(len(prefix.images))], number

    def _block(self, prefix: Prefix, number: int) -> np.ndarray:
        name = self._name(prefix, number)
        if name not in self._kept:
            if prefix.through is None:
                self._kept[name] = np.asarray(prefix.outputs_of_block(number))
            else:
                self._kept[name] = np.asarray(prefix.outputs_after(jnp.asarray(self._block(prefix.through, number))))
            self._num_bytes += self._kept[name].nbytes
        self._kept.move_to_end(name)
        block = self._kept[name]
        while self._num_bytes > self.max_bytes:
            self._num_bytes -= self._kept.popitem(last=False)[1].nbytes
        return block


def _blocks(indices: np.ndarray, num_images: int) -> np.ndarray:
    """Returns the block that each index is in."""
    return indices // num_images * num_blocks(num_images) + indices % num_images // BLOCK


def num_blocks(num_images: int) -> int:
    """Returns how many blocks a set of images is computed in."""
    return -(-num_images // BLOCK)


@functools.cache
def _make_outputs(
    model: Network, preprocessing: Preprocessing, unit: str, changes: Changes
) -> Callable[..., jax.Array]:
    @jax.jit
    def outputs(variables: Any, images: jax.Array, rows: jax.Array, number: jax.Array, key: Any) -> jax.Array:
        x = images[rows]
        if not changes.is_none:
            numbers = jnp.broadcast_to(number, rows.shape)
            x = jax.lax.cond(number == 0, lambda: x, lambda: view(key, x, rows, numbers, changes))
        return model.apply(variables, preprocessing.apply(x), stop=unit)

    return outputs


@functools.cache
def _make_outputs_after(model: Network, start: str, unit: str) -> Callable[..., jax.Array]:
    return jax.jit(lambda variables, x: model.apply(variables, x, start=start, stop=unit))


@functools.cache
def output_shape(model: Network, unit: str, size_px: int) -> tuple[int, ...]:
    """Returns the shape of the output of `unit` for one image."""
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    key = jax.random.key(0)
    return jax.eval_shape(lambda x: model.init_with_output(key, x, stop=unit)[0], images).shape[1:]
