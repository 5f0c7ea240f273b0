"""Poolings of feature maps to one vector an image. A pooling is a function, and a line that registers it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxft.core.registries import POOLINGS

PYRAMID = (1, 2, 3, 6)  # bins a side of the levels of a pyramid: He et al. 2014, section 4.1


@dataclass(frozen=True)
class Pooling:
    """A way from a feature map to one vector an image.

    Attributes:
      apply: from a map [n, height, width, channels] to [n, features]; of two maps, from both, the lower first.
      needs_map: whether it is of no use for features that are one vector an image already.
      of_two_maps: whether it takes the output of a block and that of another block below.
    """

    apply: Callable[..., jax.Array]
    needs_map: bool = False
    of_two_maps: bool = False


def average(x: jax.Array) -> jax.Array:
    """Returns [n, channels], the mean over the places of `x: [n, height, width, channels]`."""
    return x.mean((1, 2))


def maximum(x: jax.Array) -> jax.Array:
    """Returns [n, channels], the maximum over the places of `x: [n, height, width, channels]`."""
    return x.max((1, 2))


def pyramid(x: jax.Array) -> jax.Array:
    """Returns [n, bins * channels]: maxima of `x: [n, height, width, channels]` over grids of bins.

    Spatial pyramid pooling (He et al. 2014, "Spatial pyramid pooling in deep convolutional networks"): 1, 4, 9 and 36
    bins, of which the i-th of m along a side s reaches from floor(i s / m) to ceil((i + 1) s / m), as in the
    appendix. Levels finer than the map, which the paper's maps do not meet, are left out.
    """
    levels = [m for m in PYRAMID if m <= min(x.shape[1:3])]
    pooled = []
    for m in levels:
        rows = jnp.stack([x[:, begin:end].max(1) for begin, end in bins(x.shape[1], m)], 1)
        pooled.append(jnp.stack([rows[:, :, begin:end].max(2) for begin, end in bins(x.shape[2], m)], 2))
    return jnp.concatenate([level.reshape(len(x), -1) for level in pooled], 1)


def bins(side: int, count: int) -> list[tuple[int, int]]:
    """Returns where each of `count` bins along a side begins and ends."""
    return [(i * side // count, -(-(i + 1) * side // count)) for i in range(count)]


def bilinear(x: jax.Array) -> jax.Array:
    """Returns [n, channels (channels + 1) / 2]: the mean over the places of v v^T, normalized.

    Lin, RoyChowdhury & Maji 2015, "Bilinear CNN models", section 3, with both streams the same network: then the
    matrix is symmetric, and each pair of channels is kept once, times sqrt(2) after the signed square root, so that
    lengths and products of vectors are those of the whole matrix.
    """
    return _once(_normalized_products(x))


def covariance(x: jax.Array) -> jax.Array:
    """Returns what `bilinear` does, of the places' covariance (n in the denominator): means do not matter."""
    return _once(_normalized_products(x - x.mean((1, 2), keepdims=True)))


def cross_layer(below: jax.Array, above: jax.Array) -> jax.Array:
    """Returns [n, channels of below * channels of above]: for each channel above the sum below that it weighs.

    Cross-convolutional-layer pooling (Liu, Shen & van den Hengel 2015, "The treasure beneath convolutional layers",
    section 3.3): P_k = sum over places i of x_i a_ik, with x of the lower layer, then the signed square root and l2
    normalization. Ours differs: x is one place of the map below, without a PCA, and where the map below is the larger
    it is first averaged over bins to the size of the one above, which the paper's two maps share.

    Args:
      below: [n, height, width, channels]; above: [n, height', width', channels'], no larger.
    """
    for axis in (1, 2):
        side, count = below.shape[axis], above.shape[axis]
        if side != count:
            shares = [[(begin <= j < end) / (end - begin) for j in range(side)] for begin, end in bins(side, count)]
            below = jnp.moveaxis(jnp.tensordot(below, jnp.asarray(shares, below.dtype), (axis, 1)), -1, axis)
    sums = jnp.einsum("nhwc,nhwk->nkc", below, above, precision="highest")
    return _normalized(sums.reshape(len(sums), -1))


def _normalized_products(x: jax.Array) -> jax.Array:
    positions = x.reshape(len(x), -1, x.shape[-1])
    products = jnp.einsum("npc,npd->ncd", positions, positions, precision="highest") / positions.shape[1]
    return _normalized(products.reshape(len(x), -1)).reshape(products.shape)


def _normalized(x: jax.Array) -> jax.Array:
    """Returns the signed square root of `x: [n, features]`, at length 1 (Perronnin et al. 2010, section 2); 0 stays."""
    root = jnp.sign(x) * jnp.sqrt(jnp.abs(x))
    length = jnp.linalg.norm(root, axis=1, keepdims=True)
    return root / jnp.where(length > 0, length, 1)


def _once(matrices: jax.Array) -> jax.Array:
    """Returns the upper triangles of symmetric matrices [n, c, c], off the diagonal times sqrt(2)."""
    rows, columns = jnp.triu_indices(matrices.shape[-1])
    scale = jnp.where(rows == columns, 1.0, math.sqrt(2)).astype(matrices.dtype)
    return matrices[:, rows, columns] * scale.reshape(1, -1)


POOLINGS.register("average", Pooling(average), help="mean of each channel")
POOLINGS.register("max", Pooling(maximum), help="maximum of each channel")
POOLINGS.register("pyramid", Pooling(pyramid, needs_map=True), help="maxima over 1, 4, 9 and 36 bins")
POOLINGS.register(
    "cross_layer",
    Pooling(cross_layer, needs_map=True, of_two_maps=True),
    help="products of the channels of two maps",
)
POOLINGS.register("bilinear", Pooling(bilinear, needs_map=True), help="products of the channels of a map")
POOLINGS.register("covariance", Pooling(covariance, needs_map=True), help="covariances of the channels of a map")
