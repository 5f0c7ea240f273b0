"""What frozen units say of images, computed once and kept in memory for all trials that ask.

A frozen prefix's output depends on the weights, the unit, the preprocessing, the image and its view alone. It is
computed in blocks of images that are always the same, so that it has the same bits whichever images are asked for.
"""

import collections
import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.augment import Changes, view
from jaxft.models import Network, Preprocessing
from jaxft.paths import unflatten

BLOCK = 32  # images computed at a time


class FeatureCache:
    """The outputs of frozen prefixes, within a budget of bytes; those used longest ago are dropped first."""

    def __init__(self, max_bytes: float):
        self.max_bytes = max_bytes
        self._kept: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict()

    def fits(self, model: Network, unit: str, size_px: int, num_images: int) -> bool:
        """Tells whether the unit's output for so many images is within the budget."""
        per_image = 4 * math.prod(_output_shape(model, unit, size_px))
        return num_images * per_image <= self.max_bytes

    def outputs(
        self,
        model: Network,
        preprocessing: Preprocessing,
        unit: str,
        variables: Mapping[str, Any],
        images: jax.Array,
        fingerprint: str,
        indices: np.ndarray,
        changes: Changes,
        key: Any,
        say: Callable[[str], None] = lambda line: None,
    ) -> np.ndarray:
        """Returns the output of `unit` for images by index: [indices, ...] float32.

        Args:
          variables: flat `params` and `batch_stats` of the units up to `unit`.
          images: [n, h, w, 3] uint8, on the device; `fingerprint` identifies them.
          indices: view * n + row, int; view 0 is the image itself, the others are drawn from `key` (`augment.view`).
          say: told how far it is, while something has to be computed.
        """
        n = len(images)
        num_blocks = -(-n // BLOCK)
        block_of, place = indices // n * num_blocks + indices % n // BLOCK, indices % n % BLOCK
        kind = repr((_digest(variables), model.architecture, unit, preprocessing, fingerprint))
        drawn = repr((changes, np.asarray(key).tolist()))
        names = {
            number: hashlib.sha256(f"{kind} {number} {drawn * (number >= num_blocks)}".encode()).hexdigest()
            for number in map(int, np.unique(block_of))
        }
        missing = sum(name not in self._kept for name in names.values())
        run = _make_outputs(model, preprocessing, unit, changes)
        nested = {collection: unflatten(leaves) for collection, leaves in variables.items()}
        found = np.empty((len(indices), *_output_shape(model, unit, images.shape[1])), np.float32)
        done = 0
        for number, name in names.items():
            if name not in self._kept:
                of_view, block = divmod(number, num_blocks)
                rows = np.minimum(np.arange(block * BLOCK, (block + 1) * BLOCK), n - 1)
                self._kept[name] = np.asarray(run(nested, images, jnp.asarray(rows), jnp.int32(of_view), key))
                done += 1
                say(f"features of {unit}: {done * BLOCK} of {missing * BLOCK} images")
            self._kept.move_to_end(name)
            here = block_of == number
            found[here] = self._kept[name][place[here]]
            self._drop()
        return found

    def _drop(self) -> None:
        while sum(block.nbytes for block in self._kept.values()) > self.max_bytes:
            self._kept.popitem(last=False)


@functools.cache
def _make_outputs(
    model: Network, preprocessing: Preprocessing, unit: str, changes: Changes
) -> Callable[..., jax.Array]:
    @jax.jit
    def outputs(variables: Any, images: jax.Array, rows: jax.Array, number: jax.Array, key: Any) -> jax.Array:
        of_rows = images[rows]
        if not changes.is_none:
            numbers = jnp.broadcast_to(number, rows.shape)
            of_rows = jax.lax.cond(number == 0, lambda: of_rows, lambda: view(key, of_rows, rows, numbers, changes))
        return model.apply(variables, preprocessing.apply(of_rows), stop=unit)

    return outputs


@functools.cache
def _output_shape(model: Network, unit: str, size_px: int) -> tuple[int, ...]:
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    key = jax.random.key(0)
    return jax.eval_shape(lambda x: model.init_with_output(key, x, stop=unit)[0], images).shape[1:]


def _digest(variables: Mapping[str, Any]) -> str:
    total = hashlib.sha256()
    for collection, leaves in sorted(variables.items()):
        for name, leaf in sorted(leaves.items()):
            total.update(f"{collection}/{name}".encode())
            total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()
