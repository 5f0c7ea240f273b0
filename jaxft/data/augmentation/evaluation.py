"""Crops of images in evaluation: the center, or ten of them."""

import jax
import jax.numpy as jnp

NUM_CROPS = 10


def center_crop(images: jax.Array, size_px: int | None) -> jax.Array:
    """Returns the square of side `size_px` in the middle of each of `images: [n, h, w, c]`; none: the whole image."""
    if size_px is None:
        return images
    top, left = ((side - size_px) // 2 for side in images.shape[1:3])
    return images[:, top : top + size_px, left : left + size_px]


def ten_crops(images: jax.Array, size_px: int) -> jax.Array:
    """Returns [n, 10, size_px, size_px, c]: corners and center of `images: [n, h, w, c]`, then their mirror images.

    Krizhevsky et al. 2012, section 4.1.
    """
    down, right = (side - size_px for side in images.shape[1:3])
    corners = [images[:, y : y + size_px, x : x + size_px] for y in (0, down) for x in (0, right)]
    five = jnp.stack([*corners, center_crop(images, size_px)], axis=1)
    return jnp.concatenate([five, five[:, :, :, ::-1]], axis=1)
