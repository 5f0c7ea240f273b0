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

CHUNK_SIZE = 128 * BATCH_SIZE  # images whose feature maps are in memory at the same time


def pooled_prefix(
    model: Network, preprocessing: Preprocessing, variables: Mapping[str, Any], images: Pixels, fingerprint: str
) -> Prefix:
    """Returns the prefix of all layers below the head, for a set of images.

    Args:
      model: the network.
      preprocessing: the preprocessing of its images.
      variables: nested `params` and `batch_stats` of the network.
      images: [n, size, size, 3] uint8.
      fingerprint: digest of the images.
    """
    flat = {collection: flatten(variables.get(collection, {})) for collection in ("params", "batch_stats")}
    return Prefix(model, preprocessing, model.feature_block, flat, images, fingerprint, Augmentations())


def class_means(prefix: Prefix, rows: np.ndarray, labels: np.ndarray, cache: FeatureCache) -> np.ndarray:
    """Returns the mean output of a prefix over the images of each class, [classes, features], averaged over positions.

    Args:
      prefix: the frozen prefix, with its images.
      rows: [m], the images to use.
      labels: [m], their labels; the rows of the result are in ascending order of the labels.
      cache: stores the outputs.
    """
    classes, class_of_row = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), prefix.output_shape[-1]))
    for start in range(0, len(rows), CHUNK_SIZE):
        outputs = cache.outputs(prefix, rows[start : start + CHUNK_SIZE])
        pooled = outputs.reshape(len(outputs), -1, outputs.shape[-1]).mean(axis=1, dtype=np.float64)
        np.add.at(sums, class_of_row[start : start + CHUNK_SIZE], pooled)
    return sums / np.bincount(class_of_row)[:, None]
