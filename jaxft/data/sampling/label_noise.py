"""Label noise: random wrong labels of training images."""

import numpy as np

from jaxft.data.readers.image_set import ImageSet
from jaxft.data.sampling.ranking import rank


def noisy_labels(images: ImageSet, train: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns the labels of all images, [n] int32, with a fraction of the training labels replaced.

    The noisy images and their wrong classes are drawn uniformly from the seed and the ids. Draws are nested: a label
    that is wrong at a small fraction has the same wrong class at every larger fraction.

    Args:
      images: the images with their true labels.
      train: [num_train], rows of the training images.
      fraction: fraction of the training labels to replace; the number of images is rounded.
      seed: seed of the draw.
    """
    labels = images.labels.copy()
    if not fraction:
        return labels
    num_classes = len(images.class_names)
    ranked = sorted(train.tolist(), key=lambda row: rank("noise", seed, images.ids[row]))
    for row in ranked[: round(fraction * len(ranked))]:
        shift = 1 + int(rank("noisy label", seed, images.ids[row])[:16], 16) % (num_classes - 1)
        labels[row] = (labels[row] + shift) % num_classes
    return labels
