"""Wrong labels among those that are trained on."""

import numpy as np

from jaxft.data.readers.image_set import ImageSet
from jaxft.data.sampling.ranking import rank


def noisy_labels(images: ImageSet, train: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns the labels of all images, [n] int32, of which a fraction of those in `train` are another class's.

    Which images these are (their number rounded) and which of the other classes each has are drawn by the seed and
    the image's id: uniformly, and nested, so that what is wrong at a tenth is wrong in the same way at a fifth.
    """
    labels = images.labels.copy()
    if not fraction:
        return labels
    num_classes = len(images.class_names)
    ranked = sorted(train.tolist(), key=lambda row: rank("noise", seed, images.ids[row]))
    for row in ranked[: round(fraction * len(ranked))]:
        others = int(rank("noisy label", seed, images.ids[row])[:16], 16) % (num_classes - 1)
        labels[row] = (labels[row] + 1 + others) % num_classes
    return labels
