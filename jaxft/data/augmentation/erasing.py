"""Random erasing (Zhong et al. 2020), which fills a random rectangle of an image with noise."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxft.config.fields import setting
from jaxft.core.registries import AUGMENTATIONS
from jaxft.data.augmentation.base import Augmentation


@dataclass(frozen=True)
class ErasingConfig:
    """Random erasing (Zhong et al. 2020)."""

    probability: float = setting(0.0, "probability of erasing a random rectangle of an image", at_least=0, at_most=1)


ERASED_AREA = (0.02, 0.4)  # fraction of the image; Zhong et al. 2020, section 4.2

ERASED_RATIOS = (0.3, 1 / 0.3)  # height over width

ERASING_TRIES = 10  # number of drawn rectangles; the first that fits is used


def random_erasing(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Returns `image: [h, w, c <= 4] uint8` in which, with a probability, a random rectangle has random values.

    The area of the rectangle is uniform in [0.02, 0.4] of the image, and the values are uniform in [0, 255]. The first
    of ten drawn rectangles that fits is used; if none fits, the image is unchanged.

    Reference: Zhong et al. 2020, "Random erasing data augmentation", algorithm 1, "RE-R". Our aspect ratio is
    log-uniform in [0.3, 1/0.3], as in timm and torchvision; in the paper it is uniform.
    """
    height, width, channels = image.shape
    erase_key, area_key, ratio_key, position_key, value_key = jax.random.split(key, 5)
    area = jax.random.uniform(
        area_key, (ERASING_TRIES,), minval=ERASED_AREA[0], maxval=ERASED_AREA[1], dtype=jnp.float32
    )
    low, high = map(math.log, ERASED_RATIOS)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (ERASING_TRIES,), minval=low, maxval=high, dtype=jnp.float32))
    area = area * (height * width)
    sides = jnp.round(jnp.stack([jnp.sqrt(area * ratio), jnp.sqrt(area / ratio)], axis=1)).astype(jnp.int32)
    fits = (sides < jnp.array([[height, width]])).all(1)
    side = sides[fits.argmax()]
    num_positions = (jnp.array([height, width]) - side + 1).astype(jnp.float32)
    first = jnp.floor(jax.random.uniform(position_key, (2,), dtype=jnp.float32) * num_positions).astype(jnp.int32)

    def erase(image: jax.Array) -> jax.Array:
        row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
        inside = (row >= first[0]) & (row < first[0] + side[0]) & (column >= first[1]) & (column < first[1] + side[1])
        bits = jax.random.bits(value_key, (height, width, 1))  # 32 bits, one byte per channel
        values = (bits >> (8 * jnp.arange(channels, dtype=jnp.uint32)).reshape(1, 1, -1)).astype(image.dtype)
        return jnp.where(inside, values, image)

    is_erased = jax.random.bernoulli(erase_key, jnp.float32(probability)) & fits.any()
    return jax.lax.cond(is_erased, erase, lambda image: image, image)


def _erase(key: jax.Array, image: jax.Array, options: ErasingConfig) -> jax.Array:
    return random_erasing(key, image, options.probability)


AUGMENTATIONS.register(
    "erasing",
    Augmentation(_erase, per_image=True, is_active=lambda erasing: erasing.probability > 0),
    section=ErasingConfig,
    help="random erasing of a rectangle",
)
