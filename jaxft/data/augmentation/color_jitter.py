"""Color jitter: brightness, contrast, saturation and hue changed at random, as in torchvision."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxft.config.fields import setting
from jaxft.core.registries import AUGMENTATIONS
from jaxft.data.augmentation.base import Augmentation
from jaxft.data.augmentation.color import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation


@dataclass(frozen=True)
class ColorJitterConfig:
    """Random changes of brightness, contrast, saturation and hue."""

    brightness: float = setting(0.0, "maximum brightness jitter, as a fraction", at_least=0)
    contrast: float = setting(0.0, "maximum contrast jitter, as a fraction", at_least=0)
    saturation: float = setting(0.0, "maximum saturation jitter, as a fraction", at_least=0)
    hue: float = setting(0.0, "maximum hue jitter, as a fraction of the color circle", at_least=0, at_most=0.5)


def color_jitter(key: jax.Array, image: jax.Array, jitter: ColorJitterConfig) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with brightness, contrast, saturation and hue changed, in a random order.

    Factors of the first three are uniform in [max(0, 1 - jitter), 1 + jitter], the shift of the hue is in
    [-jitter, jitter] of the circle: torchvision's `ColorJitter`. What does not vary is left out of the order.
    """
    every = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    order_key, *keys = jax.random.split(key, 1 + len(every))
    operations, factors = [], []
    amounts = jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
    for operation, operation_key, amount in zip(every, keys, amounts):
        if amount:
            low, high = (-amount, amount) if operation is adjust_hue else (max(0.0, 1 - amount), 1 + amount)
            operations.append(operation)
            factors.append(jax.random.uniform(operation_key, minval=low, maxval=high, dtype=jnp.float32))

    def one(image: jax.Array, which: jax.Array) -> tuple[jax.Array, None]:
        return jax.lax.switch(which, operations, image, jnp.stack(factors)[which]), None

    return jax.lax.scan(one, image, jax.random.permutation(order_key, len(operations)))[0]


AUGMENTATIONS.register(
    "color_jitter",
    Augmentation(
        color_jitter,
        per_image=True,
        is_active=lambda jitter: any((jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)),
    ),
    section=ColorJitterConfig,
    help="random changes of brightness, contrast, saturation and hue",
)
