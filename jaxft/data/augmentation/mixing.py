"""Mixup and CutMix: the images of a batch are mixed in pairs."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def mix(key: jax.Array, images: jax.Array, alphas: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns `images: [n, h, w, c]`, each mixed with another of the batch, as float32, and its own share of the label.

    'mixup' (Zhang et al. 2018, eq. 1): a share of every pixel; 'cutmix' (Yun et al. 2019, section 3.1): a rectangle of
    the other. The share is drawn once a batch, from Beta(alpha, alpha) with the alpha of `alphas`; where both are
    there, each is taken with probability one half. A rectangle that reaches beyond the border is cut, and the share is
    that of the pixels left. As in timm the other of the image i is the last but i: batches are in random order.
    """
    which_key, share_key, position_key = jax.random.split(key, 3)
    height, width = images.shape[1:3]
    kept = {}
    for name, alpha in alphas.items():
        share = jax.random.beta(share_key, alpha, alpha, dtype=jnp.float32)
        whole = jnp.full((height, width), share)
        kept[name] = _outside_box(position_key, share, height, width) if name == "cutmix" else whole
    share_of_own, *other = kept.values()
    if other:
        share_of_own = jnp.where(jax.random.bernoulli(which_key, jnp.float32(0.5)), share_of_own, other[0])
    images = images.astype(jnp.float32)
    others = images[::-1]
    return others + share_of_own[None, :, :, None] * (images - others), share_of_own.mean()


def _outside_box(key: jax.Array, share: jax.Array, height: int, width: int) -> jax.Array:
    """Returns [h, w] float32: 0 in a box of the share 1 - `share` of the area about a random pixel, 1 outside."""
    center = jax.random.uniform(key, (2,), dtype=jnp.float32)
    outside = []
    for at, size in zip(center, (height, width)):
        side = jnp.floor(size * jnp.sqrt(1 - share))
        first = jnp.floor(at * size) - jnp.floor(side / 2)
        pixels = jnp.arange(size, dtype=jnp.float32)
        outside.append((pixels < first) | (pixels >= first + side))
    return (outside[0][:, None] | outside[1][None]).astype(jnp.float32)
