"""Color operations on one image, as in Pillow."""

import jax
import jax.numpy as jnp

from jaxft.data.luma import luma


def blend(first: jax.Array, second: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns first + factor * (second - first) [h, w, c] uint8, clipped to [0, 255] and truncated.

    The images are uint8 and broadcast against each other. Reference: `Image.blend` of Pillow.
    """
    first = first.astype(jnp.float32)
    return jnp.clip(first + factor * (second.astype(jnp.float32) - first), 0, 255).astype(jnp.uint8)


def adjust_brightness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with all values multiplied by `factor` (`ImageEnhance.Brightness`)."""
    return blend(jnp.zeros_like(image), image, factor)


def adjust_contrast(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with its distance from the mean gray level times `factor`.

    Reference: `ImageEnhance.Contrast` of Pillow.
    """
    gray = luma(image)
    mean = (2 * gray.sum() + gray.size) // (2 * gray.size)
    return blend(jnp.full_like(image, mean), image, factor)


def adjust_saturation(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with its distance from the gray image times `factor` (`ImageEnhance.Color`)."""
    return blend(luma(image), image, factor)


def adjust_sharpness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with its distance from the smoothed image times `factor`.

    Reference: `ImageEnhance.Sharpness` of Pillow.
    """
    height, width, _ = image.shape
    x = image.astype(jnp.int32)
    around = sum(x[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    smooth = (2 * (around + 4 * x[1:-1, 1:-1]) + 13) // 26  # the sum of the kernel is 13; rounded
    return blend(x.at[1:-1, 1:-1].set(smooth), image, factor)


def adjust_hue(image: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with its HSV hue shifted by `shift`, as a fraction of the color circle.

    Reference: Smith 1978, and `adjust_hue` of torchvision for tensors. Ours rounds to the nearest level.
    """
    red, green, blue = (image[..., i].astype(jnp.float32) for i in range(3))
    value, least = image.max(-1).astype(jnp.float32), image.min(-1).astype(jnp.float32)
    chroma = value - least
    scale = 1 / jnp.maximum(chroma, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    shifted = sextant + 6 * shift
    channels = []
    for offset in (5, 3, 1):
        k = jnp.mod(shifted + offset, 6)
        channels.append(value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))
    return jnp.round(jnp.stack(channels, axis=-1)).astype(jnp.uint8)


def autocontrast(image: jax.Array) -> jax.Array:
    """Returns `image: [h, w, c] uint8` with each channel stretched to [0, 255] (`ImageOps.autocontrast`)."""
    x = image.astype(jnp.int32)
    low, high = x.min((0, 1), keepdims=True), x.max((0, 1), keepdims=True)
    return jnp.where(high > low, (x - low) * 255 // jnp.maximum(high - low, 1), x).astype(jnp.uint8)


def equalize(image: jax.Array) -> jax.Array:
    """Returns `image: [h, w, c] uint8` with the histogram of each channel equalized (`ImageOps.equalize`)."""

    def channel(x: jax.Array) -> jax.Array:
        counts = jnp.zeros(256, jnp.int32).at[x.reshape(-1)].add(1)
        step = (x.size - counts[x.max()]) // 255
        below = jnp.cumsum(counts) - counts
        table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255).astype(jnp.uint8)
        return jnp.where(step > 0, table[x], x)

    return jnp.stack([channel(image[..., i]) for i in range(image.shape[-1])], axis=-1)


def posterize(image: jax.Array, bits: int) -> jax.Array:
    """Returns `image: [h, w, c] uint8` with only the highest `bits` bits of each value (`ImageOps.posterize`)."""
    return image & jnp.uint8(256 - (1 << (8 - bits)))


def solarize(image: jax.Array, threshold: float) -> jax.Array:
    """Returns `image: [h, w, c] uint8` with values of at least `threshold` inverted (`ImageOps.solarize`)."""
    return jnp.where(image.astype(jnp.float32) >= threshold, 255 - image, image)
