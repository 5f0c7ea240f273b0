"""The outputs of the layers up to a block, for a set of images."""

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
from jaxft.data.streaming import Pixels, load_rows
from jaxft.features.feature_spec import FeatureSpec
from jaxft.models import Network, Preprocessing, block_of
from jaxft.ops.convolution import implementation
from jaxft.ops.precision import true_products

FORMAT = 2  # increase it when the code computes other outputs, or writes them in another format

BATCH_SIZE = 32  # images per forward pass

VALUES = "<f4"  # dtype of outputs on disk

PACK_BYTES = 4 << 20  # bytes of batches in a file; pooled features have thousands of batches of a few kilobytes


@dataclass(frozen=True, eq=False)
class Prefix:
    """The frozen blocks up to `block`, and a set of images to which they are applied.

    Attributes:
      model: the network.
      preprocessing: the preprocessing of the images.
      block: the last block of the prefix.
      variables: flat `params` and `batch_stats`; those of later blocks have no effect.
      images: [n, h, w, 3] uint8 on the device, or a stream of n images.
      fingerprint: digest of the images.
      augmentations: the augmentations of the views of an image (`jaxft.data.augmentation.augment.view`).
      key: random key of the views.
      shorter_prefix: a shorter prefix whose outputs are also cached, and from whose outputs this one continues.
      feature_specs: features that are computed and concatenated instead of the output of `block`. Their blocks are in
        the prefix.
    """

    model: Network
    preprocessing: Preprocessing
    block: str
    variables: Mapping[str, Mapping[str, Any]]
    images: Pixels
    fingerprint: str
    augmentations: Augmentations
    key: Any = None
    shorter_prefix: "Prefix | None" = None
    feature_specs: tuple[FeatureSpec, ...] = ()

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Returns the shape of the output for one image."""
        size_px = self.preprocessing.size_px
        if self.feature_specs:
            return (sum(num_features(self.model, spec, size_px) for spec in self.feature_specs),)
        return output_shape(self.model, self.block, size_px)

    def columns(self, spec: FeatureSpec) -> slice:
        """Returns the columns of the output that contain the features of `spec`."""
        sizes = [num_features(self.model, item, self.preprocessing.size_px) for item in self.feature_specs]
        index = self.feature_specs.index(spec)
        return slice(sum(sizes[:index]), sum(sizes[: index + 1]))

    @functools.cached_property
    def used_variables(self) -> dict[str, dict[str, Any]]:
        """Returns the variables of the blocks up to `block`."""
        blocks = self.model.blocks_after(None, self.block)
        return {
            collection: {name: leaf for name, leaf in leaves.items() if block_of(name, self.model.blocks) in blocks}
            for collection, leaves in self.variables.items()
        }

    @functools.cached_property
    def digests(self) -> tuple[str, str]:
        """Returns (digest of the outputs for images without augmentation, digest of the outputs for views)."""
        contents: list[Any] = [repr(_environment())]
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
        """Returns the dtype of a record on disk: the number of a batch, and its outputs."""
        return np.dtype([("number", "<i8"), ("values", VALUES, (BATCH_SIZE, *self.output_shape))])

    def pack_of(self, number: int) -> tuple[str, int]:
        """Returns the file of the batch `number`: (digest of the outputs, index of the file)."""
        batches_per_pack = max(PACK_BYTES // self.record.itemsize, 1)
        has_views = number >= num_batches(len(self.images))
        return self.digests[1 if has_views else 0], number // batches_per_pack

    def outputs_of_batch(self, number: int) -> jax.Array:
        """Returns the outputs [32, ...] of the batch `number`.

        Numbers count the batches of all images without augmentation, then those of view 1 of all images, and so on.
        """
        view_number, batch = divmod(number, num_batches(len(self.images)))
        rows = np.minimum(np.arange(batch * BATCH_SIZE, (batch + 1) * BATCH_SIZE), len(self.images) - 1)
        run = make_outputs(self.model, self.preprocessing, self.block, self.augmentations, self.feature_specs)
        return run(self._nested, load_rows(self.images, rows), jnp.asarray(rows), jnp.int32(view_number), self.key)

    def outputs_after(self, x: jax.Array) -> jax.Array:
        """Returns the outputs [n, ...] of the prefix for `x: [n, ...]`, outputs of the shorter prefix."""
        assert self.shorter_prefix is not None
        return make_outputs_after(self.model, self.shorter_prefix.block, self.block)(self._nested, x)

    @functools.cached_property
    def _nested(self) -> dict[str, Any]:
        return {collection: unflatten(leaves) for collection, leaves in self.used_variables.items()}


def _environment() -> tuple[Any, ...]:
    """Returns the versions, the device and the convolution library, on which the exact bits of an output depend."""
    code = FORMAT, BATCH_SIZE, VALUES, VERSION, jax.__version__, version("jaxlib")
    device = jax.default_backend(), device_kind()
    return *code, *device, implementation()[0]


def batches_of(indices: np.ndarray, num_images: int) -> np.ndarray:
    """Returns [k], the number of the batch of each index in `indices: [k]`; an index is view * num_images + row."""
    return indices // num_images * num_batches(num_images) + indices % num_images // BATCH_SIZE


def num_batches(num_images: int) -> int:
    """Returns the number of batches of a set of images."""
    return -(-num_images // BATCH_SIZE)


@functools.cache
def make_outputs(
    model: Network,
    preprocessing: Preprocessing,
    block: str,
    augmentations: Augmentations,
    feature_specs: tuple[FeatureSpec, ...],
) -> Callable[..., jax.Array]:
    """Returns `outputs(variables, images, rows, view_number, key)`: outputs [k, ...] of a block, or features.

    images: [n, h, w, 3] uint8; rows: [k] int32, the images to use; view_number: int32 scalar, 0 without augmentation.

    Args:
      model: the network.
      preprocessing: the preprocessing of the images.
      block: the last block of the prefix.
      augmentations: the augmentations of views.
      feature_specs: features that are computed instead of the output of `block`; () for the output.
    """

    @jax.jit
    @true_products
    def outputs(variables: Any, images: jax.Array, rows: jax.Array, view_number: jax.Array, key: Any) -> jax.Array:
        x = images[rows]
        if not augmentations.is_empty:
            numbers = jnp.broadcast_to(view_number, rows.shape)
            plain = center_crop(x, augmentations.crop_px)
            x = jax.lax.cond(view_number == 0, lambda: plain, lambda: view(key, x, rows, numbers, augmentations))
        if feature_specs:
            return _features(model, variables, preprocessing.apply(x), feature_specs)
        return model.apply(variables, preprocessing.apply(x), stop=block)

    return outputs


def _features(model: Network, variables: Any, x: jax.Array, feature_specs: Sequence[FeatureSpec]) -> jax.Array:
    """Returns [n, features] for `x`, the input of the network: all features, concatenated, in one forward pass."""
    outputs, after = {}, None
    for block in sorted({block for spec in feature_specs for block in spec.blocks}, key=model.blocks.index):
        outputs[block] = x = model.apply(variables, x, after=after, stop=block)
        after = block
    return jnp.concatenate([spec.features(outputs) for spec in feature_specs], axis=1)


@functools.cache
def make_outputs_after(model: Network, after: str, block: str) -> Callable[..., jax.Array]:
    """Returns `outputs_after(variables, x)`: outputs [n, ...] of `block` for `x: [n, ...]`, the outputs of `after`."""

    @jax.jit
    def outputs_after(variables: Any, x: jax.Array) -> jax.Array:
        return model.apply(variables, x, after=after, stop=block)

    return outputs_after


def output_shape(model: Network, block: str, size_px: int) -> tuple[int, ...]:
    """Returns the shape of the output of `block` for one image."""
    return _output_shapes(model, size_px)[block]


@functools.cache
def _output_shapes(model: Network, size_px: int) -> dict[str, tuple[int, ...]]:
    """Returns {block: shape of its output for one image}, from one abstract forward pass."""
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    key = jax.random.key(0)

    def outputs(x: jax.Array) -> dict[str, jax.Array]:
        by_block: dict[str, jax.Array] = {}
        below = None
        for block in model.blocks:
            by_block[block] = x = model.init_with_output(key, x, after=below, stop=block)[0]
            below = block
        return by_block

    return {block: output.shape[1:] for block, output in jax.eval_shape(outputs, images).items()}


@functools.cache
def num_features(model: Network, spec: FeatureSpec, size_px: int) -> int:
    """Returns the number of features of an image."""
    shapes = {
        block: jax.ShapeDtypeStruct((1, *output_shape(model, block, size_px)), jnp.float32) for block in spec.blocks
    }
    return jax.eval_shape(spec.features, shapes).shape[1]
