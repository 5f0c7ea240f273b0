"""The mean features of each class."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxft.core.paths import flatten
from jaxft.data.augmentation.augment import Augmentations
from jaxft.data.streaming import Pixels
from jaxft.features.cache import FeatureCache
from jaxft.features.prefix import BATCH_SIZE, Prefix
from jaxft.models import Network, Preprocessing

MEANS_AT_ONCE = 128 * BATCH_SIZE  # images


def pooled_prefix(
    model: Network, preprocessing: Preprocessing, variables: Mapping[str, Any], images: Pixels, fingerprint: str
) -> Prefix:
    """Returns the layers below the head, before images [n, size, size, 3] uint8 that `fingerprint` identifies."""
    flat = {collection: flatten(variables.get(collection, {})) for collection in ("params", "batch_stats")}
    return Prefix(model, preprocessing, model.feature_block, flat, images, fingerprint, Augmentations())


def class_means(prefix: Prefix, rows: np.ndarray, labels: np.ndarray, cache: FeatureCache) -> np.ndarray:
    """Returns the mean over the images of each class of a prefix's output, pooled: [classes, features].

    Args:
      rows: [m] images to use.
      labels: [m] their classes, those of the means in ascending order.
    """
    classes, of_row = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), prefix.output_shape[-1]))
    for begin in range(0, len(rows), MEANS_AT_ONCE):  # whose maps are in memory at a time
        outputs = cache.outputs(prefix, rows[begin : begin + MEANS_AT_ONCE])
        pooled = outputs.reshape(len(outputs), -1, outputs.shape[-1]).mean(axis=1, dtype=np.float64)
        np.add.at(sums, of_row[begin : begin + MEANS_AT_ONCE], pooled)
    return sums / np.bincount(of_row)[:, None]
