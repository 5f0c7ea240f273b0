"""The interface of an augmentation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Augmentation:
    """A random function of images that is pure in its key.

    Its options are the config section `training.augmentation.<name>`, and are static in the compiled program.

    Attributes:
      apply: function of (key, images [n, h, w, c] uint8, options) that returns augmented images. If `per_image`, it
        takes and returns a single image [h, w, c].
      per_image: whether it augments one image at a time, which suits a choice between several branches. Such
        augmentations follow those of batches.
      is_active: function of the options that returns whether the augmentation has any effect.
    """

    apply: Callable[[jax.Array, jax.Array, Any], jax.Array]
    per_image: bool = False
    is_active: Callable[[Any], bool] = lambda options: options.active
