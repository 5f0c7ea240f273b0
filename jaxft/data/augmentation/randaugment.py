"""RandAugment (Cubuk et al. 2020): random operations with one magnitude."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxft.config.fields import setting
from jaxft.core.registries import AUGMENTATIONS
from jaxft.data.augmentation.base import Augmentation
from jaxft.data.augmentation.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    autocontrast,
    equalize,
    posterize,
    solarize,
)
from jaxft.data.augmentation.geometry import affine, rotate


@dataclass(frozen=True)
class RandAugmentConfig:
    """RandAugment (Cubuk et al. 2020)."""

    num_operations: int = setting(
        0, "RandAugment: number of random operations on each image; 0 turns it off", at_least=0, at_most=100
    )
    magnitude: float = setting(9.0, "RandAugment: magnitude of the operations, from 0 to 30", at_least=0, at_most=30)


MAX_MAGNITUDE = 30

# Functions of (image, level in [0, 1], sign). The list is from Cubuk et al. 2020, section 3, and the ranges are from
# Cubuk et al. 2019 (AutoAugment), table 6.
RANDAUGMENT: dict[str, Callable[[jax.Array, float, jax.Array], jax.Array]] = {
    "identity": lambda image, level, sign: image,
    "autocontrast": lambda image, level, sign: autocontrast(image),
    "equalize": lambda image, level, sign: equalize(image),
    "rotate": lambda image, level, sign: rotate(image, sign * 30 * level),
    "solarize": lambda image, level, sign: solarize(image, 255 * (1 - level)),
    "color": lambda image, level, sign: adjust_saturation(image, 1 + sign * 0.9 * level),
    "posterize": lambda image, level, sign: posterize(image, 8 - round(4 * level)),
    "contrast": lambda image, level, sign: adjust_contrast(image, 1 + sign * 0.9 * level),
    "brightness": lambda image, level, sign: adjust_brightness(image, 1 + sign * 0.9 * level),
    "sharpness": lambda image, level, sign: adjust_sharpness(image, 1 + sign * 0.9 * level),
    "shear_x": lambda image, level, sign: affine(image, (1, sign * 0.3 * level, 0, 0, 1, 0)),
    "shear_y": lambda image, level, sign: affine(image, (1, 0, 0, sign * 0.3 * level, 1, 0)),
    "translate_x": lambda image, level, sign: affine(
        image, (1, 0, sign * int(level * 150 / 331 * image.shape[1]), 0, 1, 0)
    ),
    "translate_y": lambda image, level, sign: affine(
        image, (1, 0, 0, 0, 1, sign * int(level * 150 / 331 * image.shape[0]))
    ),
}


def rand_augment(key: jax.Array, image: jax.Array, num_ops: int, magnitude: float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` after random operations with one magnitude.

    Operations with two directions use each with probability 1/2. Pixels from outside of the image are gray.

    Args:
      key: random key.
      image: [h, w, 3] uint8.
      num_ops: number of operations, drawn with replacement.
      magnitude: from 0 to 30, where 30 is the end of the ranges of AutoAugment, as in torchvision. In the code of the
        authors and in timm, 10 is the end.

    Reference: Cubuk et al. 2020, "RandAugment", section 3.
    """
    level = magnitude / MAX_MAGNITUDE
    operations = [lambda image, sign, op=op: op(image, level, sign) for op in RANDAUGMENT.values()]

    def apply_one(image: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        index_key, sign_key = jax.random.split(key)
        index = jax.random.randint(index_key, (), 0, len(operations))
        sign = jnp.where(jax.random.bernoulli(sign_key, jnp.float32(0.5)), 1.0, -1.0)
        return jax.lax.switch(index, operations, image, sign), None

    return jax.lax.scan(apply_one, image, jax.random.split(key, num_ops))[0]


def _rand_augment(key: jax.Array, image: jax.Array, options: RandAugmentConfig) -> jax.Array:
    return rand_augment(key, image, options.num_operations, options.magnitude)


AUGMENTATIONS.register(
    "randaugment",
    Augmentation(_rand_augment, per_image=True, is_active=lambda options: options.num_operations > 0),
    section=RandAugmentConfig,
    help="RandAugment: random operations with one magnitude",
)
