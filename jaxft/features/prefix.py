"""Activations of frozen layers, as a function of images: the layers up to a block, before a set of images."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core.devices import device_kind
from jaxft.core.digests import sha256_of
from jaxft.core.paths import unflatten
from jaxft.core.version import VERSION
from jaxft.data.augmentation.augment import Augmentations, view
from jaxft.data.augmentation.evaluation import center_crop
from jaxft.data.streaming import Pixels, at_hand
from jaxft.features.feature_spec import FeatureSpec
from jaxft.models import Network, Preprocessing, block_of
from jaxft.ops.convolution import implementation
from jaxft.ops.precision import true_products

FORMAT = 2  # to raise where the code gives other outputs, or writes them otherwise

BATCH_SIZE = 32  # images computed at a time

VALUES = "<f4"  # how an output is kept

PACK_BYTES = 4 << 20  # of blocks to a file: pooled features have thousands, each of some kilobytes


@dataclass(frozen=True, eq=False)
class Prefix:
    """The units up to `block`, which are frozen, before a set of images.

    Attributes:
      variables: flat `params` and `batch_stats`; those of later units do not matter.
      images: [n, h, w, 3] uint8, on the device, or a stream of as many; `fingerprint` identifies them.
      augmentations: what makes the views of an image, which are drawn from `key` (`data.augmentation.augment.view`).
      through: a shorter prefix whose outputs are kept too, and which this one goes on from.
      feature_specs: the features that are kept, side by side, instead of the output of `block`; they are poolings of
        outputs up to it.
    """

    model: Network
    preprocessing: Preprocessing
    block: str
    variables: Mapping[str, Mapping[str, Any]]
    images: Pixels
    fingerprint: str
    augmentations: Augmentations
    key: Any = None
    through: "Prefix | None" = None
    feature_specs: tuple[FeatureSpec, ...] = ()

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Returns the shape of the output for one image."""
        size_px = self.preprocessing.size_px
        if self.feature_specs:
            return (sum(num_features(self.model, spec, size_px) for spec in self.feature_specs),)
        return output_shape(self.model, self.block, size_px)

    def columns(self, spec: FeatureSpec) -> slice:
        """Returns where the features of one of the specs are in the output."""
        sizes = [num_features(self.model, each, self.preprocessing.size_px) for each in self.feature_specs]
        index = self.feature_specs.index(spec)
        return slice(sum(sizes[:index]), sum(sizes[: index + 1]))

    @functools.cached_property
    def used_variables(self) -> dict[str, dict[str, Any]]:
        """Returns the variables of the units up to `block`."""
        blocks = self.model.blocks[: self.model.blocks.index(self.block) + 1]
        return {
            collection: {name: leaf for name, leaf in leaves.items() if block_of(name, self.model.blocks) in blocks}
            for collection, leaves in self.variables.items()
        }

    @functools.cached_property
    def digests(self) -> tuple[str, str]:
        """Returns what identifies the outputs for the images themselves, and for views of them."""
        contents: list[Any] = [repr(_made_by())]
        for collection, leaves in sorted(self.used_variables.items()):
            for name, leaf in sorted(leaves.items()):
                contents += [f"{collection}/{name}", leaf]
        contents.append(repr((self.model.architecture, self.model.precision)))
        contents.append(repr((self.block, self.preprocessing, self.fingerprint)))
        if self.feature_specs:
            contents.append(repr(self.feature_specs))
        plain = sha256_of(*contents)
        return plain, sha256_of(plain, repr((self.augmentations, np.asarray(self.key).tolist())))

    @functools.cached_property
    def record(self) -> np.dtype:
        """Returns how a block lies in a file."""
        return np.dtype([("number", "<i8"), ("values", VALUES, (BATCH_SIZE, *self.output_shape))])

    def pack_of(self, number: int) -> tuple[str, int]:
        """Returns the file that the block `number` goes to: what identifies the outputs, and which file of them."""
        of_pack = max(PACK_BYTES // self.record.itemsize, 1)
        return self.digests[number >= num_batches(len(self.images))], number // of_pack

    def outputs_of_batch(self, number: int) -> jax.Array:
        """Returns the output for the block `number`: all blocks of images, then all of their first views, and so on."""
        of_view, batch = divmod(number, num_batches(len(self.images)))
        rows = np.minimum(np.arange(batch * BATCH_SIZE, (batch + 1) * BATCH_SIZE), len(self.images) - 1)
        run = make_outputs(self.model, self.preprocessing, self.block, self.augmentations, self.feature_specs)
        return run(self._nested, at_hand(self.images, rows), jnp.asarray(rows), jnp.int32(of_view), self.key)

    def outputs_after(self, x: jax.Array) -> jax.Array:
        """Returns the output for a block from that of the shorter prefix."""
        assert self.through is not None
        start = self.model.blocks[self.model.blocks.index(self.through.block) + 1]
        return make_outputs_after(self.model, start, self.block)(self._nested, x)

    @functools.cached_property
    def _nested(self) -> dict[str, Any]:
        return {collection: unflatten(leaves) for collection, leaves in self.used_variables.items()}


def _made_by() -> tuple[Any, ...]:
    """Returns what the bits of an output depend on besides its prefix: what computes it."""
    code = FORMAT, BATCH_SIZE, VALUES, VERSION, jax.__version__, version("jaxlib")
    device = jax.default_backend(), device_kind()
    return *code, *device, implementation()[0]


def batches_of(indices: np.ndarray, num_images: int) -> np.ndarray:
    """Returns the block that each index is in."""
    return indices // num_images * num_batches(num_images) + indices % num_images // BATCH_SIZE


def num_batches(num_images: int) -> int:
    """Returns how many blocks a set of images is computed in."""
    return -(-num_images // BATCH_SIZE)


@functools.cache
def make_outputs(
    model: Network,
    preprocessing: Preprocessing,
    block: str,
    augmentations: Augmentations,
    feature_specs: tuple[FeatureSpec, ...],
) -> Callable[..., jax.Array]:
    """Returns `outputs(variables, images, rows, number, key)`: of a unit, or features, for a view of images."""

    @jax.jit
    @true_products
    def outputs(variables: Any, images: jax.Array, rows: jax.Array, number: jax.Array, key: Any) -> jax.Array:
        x = images[rows]
        if not augmentations.is_none:
            numbers = jnp.broadcast_to(number, rows.shape)
            itself = center_crop(x, augmentations.crop_px)
            x = jax.lax.cond(number == 0, lambda: itself, lambda: view(key, x, rows, numbers, augmentations))
        if feature_specs:
            return _features(model, variables, preprocessing.apply(x), feature_specs)
        return model.apply(variables, preprocessing.apply(x), stop=block)

    return outputs


def _features(model: Network, variables: Any, x: jax.Array, feature_specs: Sequence[FeatureSpec]) -> jax.Array:
    """Returns [n, features] of `x`, the input of the network: all features side by side, in one pass."""
    outputs, start = {}, None
    for block in sorted({block for spec in feature_specs for block in spec.blocks}, key=model.blocks.index):
        outputs[block] = x = model.apply(variables, x, start=start, stop=block)
        start = model.blocks[model.blocks.index(block) + 1]
    return jnp.concatenate([spec.features(outputs) for spec in feature_specs], axis=1)


@functools.cache
def make_outputs_after(model: Network, start: str, block: str) -> Callable[..., jax.Array]:
    """Returns `outputs_after(variables, x)`: the output of a unit from what enters the unit `start`."""

    @jax.jit
    def outputs_after(variables: Any, x: jax.Array) -> jax.Array:
        return model.apply(variables, x, start=start, stop=block)

    return outputs_after


def output_shape(model: Network, block: str, size_px: int) -> tuple[int, ...]:
    """Returns the shape of the output of `block` for one image."""
    return _output_shapes(model, size_px)[block]


@functools.cache
def _output_shapes(model: Network, size_px: int) -> dict[str, tuple[int, ...]]:
    """Returns the shape of the output of every unit for one image, from one pass through the network."""
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    key = jax.random.key(0)

    def outputs(x: jax.Array) -> dict[str, jax.Array]:
        by_block = {}
        for block in model.blocks:
            by_block[block] = x = model.init_with_output(key, x, start=block, stop=block)[0]
        return by_block

    return {block: output.shape[1:] for block, output in jax.eval_shape(outputs, images).items()}


@functools.cache
def num_features(model: Network, spec: FeatureSpec, size_px: int) -> int:
    """Returns how many features of an image a spec means."""
    shapes = {
        block: jax.ShapeDtypeStruct((1, *output_shape(model, block, size_px)), jnp.float32) for block in spec.blocks
    }
    return jax.eval_shape(spec.features, shapes).shape[1]
