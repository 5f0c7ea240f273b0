"""Mixup and CutMix, which mix pairs of images of a batch."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def mix(key: jax.Array, images: jax.Array, alphas: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the mixed images [n, h, w, c] float32, and the label weight of the first image of each pair, a scalar.

    Image i is mixed with image n - 1 - i, as in timm; batches are in random order. One weight per batch is drawn from
    Beta(alpha, alpha). Mixup averages all pixels with this weight. CutMix replaces a rectangle; if the border of the
    image cuts the rectangle, the label weight is the fraction of pixels that are not replaced. If both are active, each
    is used with probability 1/2.

    Args:
      key: random key.
      images: [n, h, w, c].
      alphas: the scalar alpha of 'mixup', of 'cutmix', or of both.

    Reference: Zhang et al. 2018, "mixup", equation 1; Yun et al. 2019, "CutMix", section 3.1.
    """
    choice_key, weight_key, position_key = jax.random.split(key, 3)
    height, width = images.shape[1:3]
    masks = {}
    for name, alpha in alphas.items():
        weight = jax.random.beta(weight_key, alpha, alpha, dtype=jnp.float32)
        uniform = jnp.full((height, width), weight)
        masks[name] = _outside_box(position_key, weight, height, width) if name == "cutmix" else uniform
    mask, *second = masks.values()
    if second:
        mask = jnp.where(jax.random.bernoulli(choice_key, jnp.float32(0.5)), mask, second[0])
    images = images.astype(jnp.float32)
    partners = images[::-1]
    return partners + mask[None, :, :, None] * (images - partners), mask.mean()


def _outside_box(key: jax.Array, weight: jax.Array, height: int, width: int) -> jax.Array:
    """Returns a mask [h, w] float32 that is 0 in a box of area 1 - `weight` around a random pixel, and 1 outside."""
    center = jax.random.uniform(key, (2,), dtype=jnp.float32)
    outside = []
    for position, size in zip(center, (height, width)):
        side = jnp.floor(size * jnp.sqrt(1 - weight))
        first = jnp.floor(position * size) - jnp.floor(side / 2)
        pixels = jnp.arange(size, dtype=jnp.float32)
        outside.append((pixels < first) | (pixels >= first + side))
    return (outside[0][:, None] | outside[1][None]).astype(jnp.float32)
