"""Crops of images in evaluation: the center crop, or ten crops."""

import jax
import jax.numpy as jnp

NUM_CROPS = 10


def center_crop(images: jax.Array, size_px: int | None) -> jax.Array:
    """Returns the center crops [n, size_px, size_px, c] of `images: [n, h, w, c]`. If None, returns the images."""
    if size_px is None:
        return images
    top, left = ((side - size_px) // 2 for side in images.shape[1:3])
    return images[:, top : top + size_px, left : left + size_px]


def ten_crops(images: jax.Array, size_px: int) -> jax.Array:
    """Returns ten crops of `images: [n, h, w, c]`: the four corners and the center, then their mirror images.

    The shape is [n, 10, size_px, size_px, c].

    Reference: Krizhevsky et al. 2012, section 4.1.
    """
    down, right = (side - size_px for side in images.shape[1:3])
    corners = [images[:, y : y + size_px, x : x + size_px] for y in (0, down) for x in (0, right)]
    five = jnp.stack([*corners, center_crop(images, size_px)], axis=1)
    return jnp.concatenate([five, five[:, :, :, ::-1]], axis=1)
