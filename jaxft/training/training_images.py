"""The training images of a trial as a network sees them without random changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxft.data.augmentation.augment import Augmentations
from jaxft.data.streaming import Pixels
from jaxft.features.cache import FeatureCache
from jaxft.features.prefix import Prefix
from jaxft.models import Network, Preprocessing


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The training images of a trial, and a network that looks at them.

    Attributes:
      variables: flat `params` and `batch_stats` of the network.
      pixels: [n, h, w, 3] uint8, or a stream of as many.
      fingerprint: identifies the pixels.
      rows: [m] the images to train on.
      labels: [m] their classes, as the trial sees them.
      cache: keeps outputs of the network.
    """

    model: Network
    preprocessing: Preprocessing
    variables: Mapping[str, Mapping[str, Any]]
    pixels: Pixels
    fingerprint: str
    rows: np.ndarray
    labels: np.ndarray
    cache: FeatureCache

    def outputs(self, block: str, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns the outputs of a block for the images `rows[chosen]`, or their centers if they are larger."""
        size_px = self.preprocessing.size_px
        augmentations = Augmentations.of({"crop.size_px": None if self.pixels.shape[1] == size_px else size_px})
        key = jax.random.key_data(jax.random.key(0))  # of random views, of which none is asked for
        prefix = Prefix(
            self.model, self.preprocessing, block, self.variables, self.pixels, self.fingerprint, augmentations, key
        )
        return self.cache.outputs(prefix, self.rows[chosen])
