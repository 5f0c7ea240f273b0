"""The training images of a trial without augmentation, and outputs of a network for them."""

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
    """The training images of a trial, and a network that is applied to them.

    Attributes:
      model: the network.
      preprocessing: the preprocessing of its images.
      variables: flat `params` and `batch_stats` of the network.
      pixels: [n, h, w, 3] uint8, or a stream of n images.
      fingerprint: digest of the pixels.
      rows: [m], the training images among the pixels.
      labels: [m], their labels in the trial.
      cache: stores outputs of the network.
    """

    model: Network
    preprocessing: Preprocessing
    variables: Mapping[str, Mapping[str, Any]]
    pixels: Pixels
    fingerprint: str
    rows: np.ndarray
    labels: np.ndarray
    cache: FeatureCache

    def outputs(self, block: str, selected: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns the outputs [k, ...] float32 of a block for the k images `rows[selected]`.

        `selected` is a slice or an array [k]. Images larger than the input of the network are center-cropped.
        """
        size_px = self.preprocessing.size_px
        augmentations = Augmentations.of({"crop.size_px": None if self.pixels.shape[1] == size_px else size_px})
        key = jax.random.key_data(jax.random.key(0))  # only random views use it
        prefix = Prefix(
            self.model, self.preprocessing, block, self.variables, self.pixels, self.fingerprint, augmentations, key
        )
        return self.cache.outputs(prefix, self.rows[selected])
