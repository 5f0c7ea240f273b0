"""An augmentation: a random change of images, with its options and when it is active."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Augmentation:
    """A random change of images, pure in its key.

    Attributes:
      apply: function of (key, images [n, h, w, c] uint8, options) that returns the changed images. If `per_image`, it
        takes and returns a single image [h, w, c]: for changes that compute one of several branches.
      per_image: whether it changes one image at a time. Such augmentations come after those of whole batches.
      is_active: whether it does anything with its options, which are static in the compiled program: its section of
        the config, `training.augmentation.<name>`.
    """

    apply: Callable[[jax.Array, jax.Array, Any], jax.Array]
    per_image: bool = False
    is_active: Callable[[Any], bool] = lambda options: options.active
