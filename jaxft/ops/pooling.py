"""Poolings of feature maps to one vector per image. To add a pooling, write a function and register it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxft.core.registries import POOLINGS

PYRAMID = (1, 2, 3, 6)  # bins per side at each level of the pyramid (He et al. 2014, section 4.1)


@dataclass(frozen=True)
class Pooling:
    """A pooling of feature maps.

    Attributes:
      apply: returns [n, features] from a map [n, height, width, channels], or from two maps, the lower one first.
      needs_map: whether it needs maps, and does not apply to features that are one vector per image.
      of_two_maps: whether it takes the outputs of two blocks.
    """

    apply: Callable[..., jax.Array]
    needs_map: bool = False
    of_two_maps: bool = False


def average(x: jax.Array) -> jax.Array:
    """Returns [n, channels], the mean over the positions of `x: [n, height, width, channels]`."""
    return x.mean((1, 2))


def maximum(x: jax.Array) -> jax.Array:
    """Returns [n, channels], the maximum over the positions of `x: [n, height, width, channels]`."""
    return x.max((1, 2))


def pyramid(x: jax.Array) -> jax.Array:
    """Returns [n, bins * channels]: maxima of `x: [n, height, width, channels]` over grids of bins.

    Spatial pyramid pooling has 1, 4, 9 and 36 bins. Along a side of s positions, bin i of m covers the positions from
    floor(i s / m) to ceil((i + 1) s / m). Levels with more bins than positions are left out; they do not occur in the
    paper.

    Reference: He et al. 2014, "Spatial pyramid pooling in deep convolutional networks", section 4.1 and appendix.
    """
    levels = [m for m in PYRAMID if m <= min(x.shape[1:3])]
    pooled = []
    for m in levels:
        rows = jnp.stack([x[:, begin:end].max(1) for begin, end in bins(x.shape[1], m)], 1)
        pooled.append(jnp.stack([rows[:, :, begin:end].max(2) for begin, end in bins(x.shape[2], m)], 2))
    return jnp.concatenate([level.reshape(len(x), -1) for level in pooled], 1)


def bins(side: int, count: int) -> list[tuple[int, int]]:
    """Returns the start and the end of each of `count` bins along a side."""
    return [(i * side // count, -(-(i + 1) * side // count)) for i in range(count)]


def bilinear(x: jax.Array) -> jax.Array:
    """Returns [n, channels (channels + 1) / 2]: bilinear pooling of `x: [n, height, width, channels]`.

    It is the mean of v v^T over the vectors v at all positions, followed by the signed square root and L2
    normalization. Both streams are the same network, so the matrix is symmetric. Each pair of channels is kept once,
    times sqrt(2), so that norms and inner products are those of the full matrices.

    Reference: Lin, RoyChowdhury & Maji 2015, "Bilinear CNN models for fine-grained visual recognition", section 3.
    """
    return _once(_normalized_products(x))


def covariance(x: jax.Array) -> jax.Array:
    """Returns [n, channels (channels + 1) / 2] of `x: [n, height, width, channels]`.

    This is `bilinear` with the covariance over positions (number of positions in the denominator) instead of the mean
    of v v^T.
    """
    return _once(_normalized_products(x - x.mean((1, 2), keepdims=True)))


def cross_layer(below: jax.Array, above: jax.Array) -> jax.Array:
    """Returns [n, channels * channels']: cross-convolutional-layer pooling of two maps.

    For each channel k of the upper map a, P_k is the sum over positions i of x_i a_ik, with x_i from the lower map. The
    signed square root and L2 normalization follow. Differences from the paper: x_i is a single position without PCA,
    and a larger lower map is first averaged over bins to the size of the upper map (in the paper, sizes are equal).

    Args:
      below: the lower map, [n, height, width, channels].
      above: the upper map, [n, height', width', channels'], not larger than `below`.

    Reference: Liu, Shen & van den Hengel 2015, "The treasure beneath convolutional layers", section 3.3.
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
    """Returns the signed square root of `x: [n, features]`, scaled to norm 1 (Perronnin et al. 2010, section 2).

    Rows of zeros are unchanged.
    """
    root = jnp.sign(x) * jnp.sqrt(jnp.abs(x))
    length = jnp.linalg.norm(root, axis=1, keepdims=True)
    return root / jnp.where(length > 0, length, 1)


def _once(matrices: jax.Array) -> jax.Array:
    """Returns the upper triangles of symmetric matrices [n, c, c], with values off the diagonal times sqrt(2)."""
    rows, columns = jnp.triu_indices(matrices.shape[-1])
    scale = jnp.where(rows == columns, 1.0, math.sqrt(2)).astype(matrices.dtype)
    return matrices[:, rows, columns] * scale.reshape(1, -1)


POOLINGS.register("average", Pooling(average), help="mean of each channel")
POOLINGS.register("max", Pooling(maximum), help="maximum of each channel")
POOLINGS.register(
    "pyramid", Pooling(pyramid, needs_map=True), help="maxima of each channel over 1, 4, 9 and 36 bins (SPP)"
)
POOLINGS.register(
    "cross_layer",
    Pooling(cross_layer, needs_map=True, of_two_maps=True),
    help="products of the channels of two maps, summed over positions",
)
POOLINGS.register(
    "bilinear", Pooling(bilinear, needs_map=True), help="products of the channels of a map, averaged over positions"
)
POOLINGS.register(
    "covariance", Pooling(covariance, needs_map=True), help="covariances of the channels of a map over positions"
)
