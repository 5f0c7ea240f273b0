"""Random crops and flips, and the affine transformations of RandAugment."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config.fields import MAX_SIZE_PX, setting
from jaxft.core.registries import AUGMENTATIONS
from jaxft.data.augmentation.base import Augmentation


@dataclass(frozen=True)
class CropConfig:
    """Random crops in training, and center crops in evaluation."""

    padding_px: int = setting(
        0, "zero pixels added on each side of an image before a random crop", at_least=0, at_most=MAX_SIZE_PX
    )
    scale_min: float = setting(
        1.0, "smallest fraction of the area that a random resized crop keeps; 1 turns it off", above=0, at_most=1
    )
    size_px: int | None = setting(
        None,
        "side of the crops that the network receives: random crops in training, center crops in evaluation; if None, "
        "whole images",
        at_least=1,
        at_most=MAX_SIZE_PX,
    )


@dataclass(frozen=True)
class FlipConfig:
    """Random horizontal flips."""

    enabled: bool = setting(False, "whether half of the images are flipped horizontally at random")


ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a random resized crop; Szegedy et al. 2015, section 6

GRAY = 128  # fills pixels from outside of the image, as in the code of Cubuk et al. 2019


def random_crop(key: jax.Array, images: jax.Array, padding_px: int = 0, size_px: int | None = None) -> jax.Array:
    """Returns a random crop of each image, [n, size_px, size_px, c].

    The offsets are uniform and independent for each image.

    Args:
      key: random key.
      images: [n, h, w, c].
      padding_px: zero pixels that are first added on each side.
      size_px: side of the crops. If None, the crops have the size of the images before padding.

    Reference: with padding, He et al. 2016, section 4.2 (4 pixels at 32 px). For crops of larger images, Krizhevsky et
    al. 2012, section 4.1 (224 of 256 px).
    """
    n, height, width, channels = images.shape
    out = (height, width) if size_px is None else (size_px, size_px)
    border = (padding_px, padding_px)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    num_offsets = [side - cropped + 1 for side, cropped in zip(padded.shape[1:3], out)]
    offsets = jax.random.randint(key, (n, 2), 0, jnp.broadcast_to(jnp.array([num_offsets]), (n, 2)))

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (*out, channels))

    return jax.vmap(crop)(padded, offsets)


def resized_crop(key: jax.Array, images: jax.Array, scale_min: float, size_px: int | None = None) -> jax.Array:
    """Returns a random resized crop of each image, [n, size_px, size_px, c] uint8 (bilinear).

    The area of a crop is uniform in [scale_min, 1] of the image, its aspect ratio is log-uniform in [3/4, 4/3], and its
    position is uniform.

    Args:
      key: random key.
      images: [n, h, w, c] uint8.
      scale_min: smallest area of a crop, as a fraction of the image, in (0, 1].
      size_px: side of the resized crops. If None, they get the size of the images.

    Reference: Szegedy et al. 2015, section 6, where scale_min is 0.08. A crop that is wider or higher than the image is
    reduced to the width or height of the image. torchvision instead draws again, up to ten times.
    """
    n, height, width, _ = images.shape
    area_key, ratio_key, position_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (n,), minval=scale_min, maxval=1.0, dtype=jnp.float32)
    low, high = ASPECT_RATIOS
    ratio = jnp.exp(jax.random.uniform(ratio_key, (n,), minval=jnp.log(low), maxval=jnp.log(high), dtype=jnp.float32))
    fractions = jnp.minimum(jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], axis=1), 1.0)  # height, width
    sides = jnp.asarray([[height, width]], jnp.float32)
    first = jax.random.uniform(position_key, (n, 2), dtype=jnp.float32) * (1 - fractions) * sides
    out = (height, width) if size_px is None else (size_px, size_px)

    resized = jax.vmap(functools.partial(resized_region, out=out))(images, first, fractions * sides)
    return jnp.clip(jnp.round(resized), 0, 255).astype(images.dtype)


def resized_region(image: jax.Array, first: jax.Array, length: jax.Array, out: tuple[int, int]) -> jax.Array:
    """Returns a resized region of an image, [*out, c] float32, not rounded (bilinear with antialiasing).

    Each output row and column is a sum of a few input rows or columns. On a CPU, this takes a tenth of the time of a
    product with the matrix of all weights.

    Args:
      image: [h, w, c].
      first: [2], position of the top left corner of the region, in pixels.
      length: [2], height and width of the region, in pixels.
      out: height and width of the result, in pixels.

    Reference: `resize` of Pillow with a box; both use pixels outside of the box at its border. Pillow also rounds
    between rows and columns, so it differs by less than 1.01 gray levels.
    """
    rows, by_row = _taps(first[0], length[0], image.shape[0], out[0])
    columns, by_column = _taps(first[1], length[1], image.shape[1], out[1])
    image = sum(image[r].astype(jnp.float32) * w[:, None, None] for r, w in zip(rows, by_row))
    return sum(image[:, c] * w[None, :, None] for c, w in zip(columns, by_column))


def _taps(first: jax.Array, length: jax.Array, size: int, out: int) -> tuple[jax.Array, jax.Array]:
    """Returns the input pixels and weights of each output pixel along one axis: [taps, out] int32 and float32."""
    max_support = max(size / out, 1.0)  # half the base of the triangle filter, in pixels, if the region is the image
    num_taps = 2 if max_support == 1 else math.floor(2 * max_support) + 1
    step = length / out
    center = first + (jnp.arange(out, dtype=jnp.float32) + 0.5) * step
    support = jnp.maximum(step, 1.0)
    taps = jnp.floor(center - support + 0.5).astype(jnp.int32)[None] + jnp.arange(num_taps)[:, None]
    inside = ((taps >= 0) & (taps < size)).astype(jnp.float32)
    weights = jnp.maximum(1 - jnp.abs(taps.astype(jnp.float32) + 0.5 - center[None]) / support, 0) * inside
    return jnp.clip(taps, 0, size - 1), weights / weights.sum(0, keepdims=True)


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns `images: [n, h, w, c]`, each mirrored horizontally with probability 1/2."""
    mirrored = jax.random.bernoulli(key, jnp.float32(0.5), (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def affine(image: jax.Array, matrix: tuple[Any, Any, Any, Any, Any, Any]) -> jax.Array:
    """Returns an affine transformation of `image: [h, w, c] uint8`.

    The output at (x, y) is the nearest input pixel at (a x + b y + c, d x + e y + f), with `matrix` = (a, b, c, d, e,
    f) and pixel centers at half-integers. Pixels from outside of the image are gray.

    Reference: `Image.transform` of Pillow with `AFFINE`.
    """
    height, width, channels = image.shape
    x, y = (jnp.arange(size, dtype=jnp.float32) + 0.5 for size in (width, height))
    x, y = x[None], y[:, None]
    a, b, c, d, e, f = matrix
    column, row = (jnp.floor(value).astype(jnp.int32) for value in (a * x + b * y + c, d * x + e * y + f))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixel = jnp.where(inside, row * width + column, 0)
    return jnp.where(inside[..., None], image.reshape(-1, channels)[pixel], jnp.uint8(GRAY))


def rotate(image: jax.Array, degrees: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, c] uint8` rotated counterclockwise around its center (`Image.rotate` of Pillow)."""
    angle = -jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = image.shape[0] / 2, image.shape[1] / 2
    return affine(image, (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y))


def _crop(key: jax.Array, images: jax.Array, options: CropConfig) -> jax.Array:
    size_px = options.size_px
    if options.scale_min < 1:
        images = resized_crop(jax.random.fold_in(key, 1), images, options.scale_min, size_px)
    if options.padding_px or (size_px and images.shape[1] != size_px):
        images = random_crop(key, images, options.padding_px, size_px)
    return images


def _flip(key: jax.Array, images: jax.Array, options: FlipConfig) -> jax.Array:
    return flip(key, images)


AUGMENTATIONS.register(
    "crop",
    Augmentation(_crop, is_active=lambda crop: bool(crop.scale_min < 1 or crop.padding_px or crop.size_px)),
    section=CropConfig,
    help="random crops and random resized crops",
)
AUGMENTATIONS.register(
    "flip", Augmentation(_flip, is_active=lambda flip: flip.enabled), section=FlipConfig, help="random horizontal flips"
)
