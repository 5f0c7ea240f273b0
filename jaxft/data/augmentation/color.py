"""Changes of color of one image, as in Pillow."""

import jax
import jax.numpy as jnp

from jaxft.data.luma import luma


def blend(one: jax.Array, other: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns one + factor * (other - one) as uint8, cut at 0 and 255 and to whole levels (Pillow's `Image.blend`)."""
    one = one.astype(jnp.float32)
    return jnp.clip(one + factor * (other.astype(jnp.float32) - one), 0, 255).astype(jnp.uint8)


def adjust_brightness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with its brightness times `factor` (`ImageEnhance.Brightness`)."""
    return blend(jnp.zeros_like(image), image, factor)


def adjust_contrast(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8`, `factor` times as far from its mean gray level (`ImageEnhance.Contrast`)."""
    gray = luma(image)
    mean = (2 * gray.sum() + gray.size) // (2 * gray.size)
    return blend(jnp.full_like(image, mean), image, factor)


def adjust_saturation(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8`, `factor` times as far from its own gray levels (`ImageEnhance.Color`)."""
    return blend(luma(image), image, factor)


def adjust_sharpness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8`, `factor` times as far from its smoothed self (`ImageEnhance.Sharpness`)."""
    height, width, _ = image.shape
    x = image.astype(jnp.int32)
    around = sum(x[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    smooth = (2 * (around + 4 * x[1:-1, 1:-1]) + 13) // 26  # the kernel's sum is 13; rounded
    return blend(x.at[1:-1, 1:-1].set(smooth), image, factor)


def adjust_hue(image: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with its hue in HSV moved by `shift`, as a share of the whole circle.

    Smith 1978; torchvision's `adjust_hue` for tensors, where ours rounds to the nearest level.
    """
    red, green, blue = (image[..., i].astype(jnp.float32) for i in range(3))
    value, least = image.max(-1).astype(jnp.float32), image.min(-1).astype(jnp.float32)
    chroma = value - least
    per = 1 / jnp.maximum(chroma, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) * per,
        jnp.where(value == green, 2 + (blue - red) * per, 4 + (red - green) * per),
    )
    turned = sextant + 6 * shift
    channels = []
    for offset in (5, 3, 1):
        k = jnp.mod(turned + offset, 6)
        channels.append(value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))
    return jnp.round(jnp.stack(channels, axis=-1)).astype(jnp.uint8)


def autocontrast(image: jax.Array) -> jax.Array:
    """Returns `image: [h, w, c] uint8` with each channel stretched to 0 and 255 (`ImageOps.autocontrast`)."""
    x = image.astype(jnp.int32)
    low, high = x.min((0, 1), keepdims=True), x.max((0, 1), keepdims=True)
    return jnp.where(high > low, (x - low) * 255 // jnp.maximum(high - low, 1), x).astype(jnp.uint8)


def equalize(image: jax.Array) -> jax.Array:
    """Returns `image: [h, w, c] uint8` with the levels of each channel spread evenly (`ImageOps.equalize`)."""

    def channel(x: jax.Array) -> jax.Array:
        counts = jnp.zeros(256, jnp.int32).at[x.reshape(-1)].add(1)
        step = (x.size - counts[x.max()]) // 255
        below = jnp.cumsum(counts) - counts
        table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255).astype(jnp.uint8)
        return jnp.where(step > 0, table[x], x)

    return jnp.stack([channel(image[..., i]) for i in range(image.shape[-1])], axis=-1)


def posterize(image: jax.Array, bits: int) -> jax.Array:
    """Returns `image` uint8 with the highest `bits` bits of each value (`ImageOps.posterize`)."""
    return image & jnp.uint8(256 - (1 << (8 - bits)))


def solarize(image: jax.Array, threshold: float) -> jax.Array:
    """Returns `image` uint8, values from `threshold` on inverted (`ImageOps.solarize`)."""
    return jnp.where(image.astype(jnp.float32) >= threshold, 255 - image, image)
