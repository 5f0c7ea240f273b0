"""The head's weights at the start: random, zeros, or the mean features of the classes."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config import Training
from jaxft.core.errors import UserError
from jaxft.models import Network
from jaxft.training.training_images import TrainingImages


def initial_head(training: Training, images: TrainingImages) -> dict[str, jax.Array]:
    """Returns the head's parameters at the start, by name.

    'class_means': the column of class c is m_c / ||m_c||, where m_c is the mean over the class's training images of
    f / ||f||, and f are the features of an image in evaluation; biases are zero. The class with the largest logit is
    that of Qi, Brown & Lowe 2018 ("imprinted weights"), whose features are normalized too, and whose logits are
    multiplied by a learned number, ours by ||f||.

    Args:
      images: the training images, with the network as it starts.
    """
    model = images.model
    head = {name: leaf for name, leaf in images.variables["params"].items() if model.in_head(name)}
    if training.initialization.head == "lecun":
        return head
    check_head(training, model)
    if training.initialization.head == "zeros":
        return {name: jnp.zeros_like(leaf) for name, leaf in head.items()}
    kernel = imprint(images.outputs(model.feature_block), images.labels, model.num_classes)
    bias = jnp.zeros(model.num_classes, jnp.float32)
    return {f"{model.head}/kernel": jnp.asarray(kernel), f"{model.head}/bias": bias}


def imprint(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns [features, classes] float32, the kernel of `initial_head`, from `features: [n, features]`.

    A class without images, and one whose features cancel, has a column of zeros.
    """
    vectors = np.asarray(features, np.float64)
    normalized = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    sums = np.zeros((num_classes, vectors.shape[1]))
    np.add.at(sums, labels, normalized)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).T.astype(np.float32)


def check_head(training: Training, model: Network) -> None:
    """Raises a `UserError` if the head is to start from given weights, but is no dense layer of features."""
    if training.initialization.head != "lecun" and not model.has_linear_head:
        raise UserError(
            f"config field 'training.initialization.head' is {training.initialization.head!r}, but the classifier of "
            f"{model.architecture} reads maps and has a ReLU after it; use 'lecun'."
        )
