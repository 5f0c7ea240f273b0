"""Color jitter: random brightness, contrast, saturation and hue, as in torchvision."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxft.config.fields import setting
from jaxft.core.registries import AUGMENTATIONS
from jaxft.data.augmentation.base import Augmentation
from jaxft.data.augmentation.color import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation


@dataclass(frozen=True)
class ColorJitterConfig:
    """Random brightness, contrast, saturation and hue."""

    brightness: float = setting(0.0, "maximum brightness jitter, as a fraction", at_least=0)
    contrast: float = setting(0.0, "maximum contrast jitter, as a fraction", at_least=0)
    saturation: float = setting(0.0, "maximum saturation jitter, as a fraction", at_least=0)
    hue: float = setting(0.0, "maximum hue jitter, as a fraction of the color circle", at_least=0, at_most=0.5)


def color_jitter(key: jax.Array, image: jax.Array, jitter: ColorJitterConfig) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with random brightness, contrast, saturation and hue, applied in random order.

    The factors of brightness, contrast and saturation are uniform in [max(0, 1 - jitter), 1 + jitter]. The shift of the
    hue is uniform in [-jitter, jitter], as a fraction of the color circle. Operations without jitter are skipped.

    Reference: `ColorJitter` of torchvision.
    """
    all_operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    order_key, *keys = jax.random.split(key, 1 + len(all_operations))
    operations, factors = [], []
    amounts = jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
    for operation, operation_key, amount in zip(all_operations, keys, amounts):
        if amount:
            low, high = (-amount, amount) if operation is adjust_hue else (max(0.0, 1 - amount), 1 + amount)
            operations.append(operation)
            factors.append(jax.random.uniform(operation_key, minval=low, maxval=high, dtype=jnp.float32))

    def apply_one(image: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        return jax.lax.switch(index, operations, image, jnp.stack(factors)[index]), None

    return jax.lax.scan(apply_one, image, jax.random.permutation(order_key, len(operations)))[0]


AUGMENTATIONS.register(
    "color_jitter",
    Augmentation(
        color_jitter,
        per_image=True,
        is_active=lambda jitter: any((jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)),
    ),
    section=ColorJitterConfig,
    help="random brightness, contrast, saturation and hue",
)
