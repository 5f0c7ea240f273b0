"""Random changes of images on the device, pure in (key, images)."""

import jax
import jax.numpy as jnp


def pad_crop(key: jax.Array, images: jax.Array, padding_px: int) -> jax.Array:
    """Returns `images: [n, h, w, c]` shifted by up to `padding_px` each way, with zeros where nothing was.

    The random crop of He et al. 2016, section 4.2 (there 4 pixels at 32): offsets uniform, one pair an image.
    """
    n, height, width, channels = images.shape
    border = (padding_px, padding_px)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    offsets = jax.random.randint(key, (n, 2), 0, 2 * padding_px + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns `images: [n, h, w, c]`, each mirrored left to right with probability one half."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def augment(key: jax.Array, images: jax.Array, crop_padding_px: int, mirror: bool) -> jax.Array:
    """Returns `images` after the crop and the flip that are asked for."""
    crop_key, flip_key = jax.random.split(key)
    if crop_padding_px:
        images = pad_crop(crop_key, images, crop_padding_px)
    if mirror:
        images = flip(flip_key, images)
    return images
