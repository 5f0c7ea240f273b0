"""The initial weights of the head: random, zeros, or mean features of the classes."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config import Training
from jaxft.core.errors import UserError
from jaxft.models import Network
from jaxft.training.training_images import TrainingImages


def initial_head(training: Training, images: TrainingImages) -> dict[str, jax.Array]:
    """Returns the initial parameters of the head, by name: kernel [features, classes] and bias [classes].

    With 'class_means', the column of class c is m_c / ||m_c||. Here m_c is the mean of f / ||f|| over the training
    images of the class, and f are the features of an image in evaluation. Biases are zero. The predicted class agrees
    with Qi, Brown & Lowe 2018 ("imprinted weights"). They also normalize the features of the image to classify, and
    multiply the logits by a learned number; here the factor of the logits is ||f||.

    Args:
      training: the config of training.
      images: the training images, with the initial network.

    Raises:
      UserError: 'zeros' or 'class_means' is requested, but the head is not a dense layer.
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
    """Returns the kernel [features, classes] float32 of `initial_head` for 'class_means'.

    `features: [n, features]` and `labels: [n]` are those of the training images. The column of a class is zero if the
    class has no images or its normalized features sum to zero.
    """
    vectors = np.asarray(features, np.float64)
    normalized = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    sums = np.zeros((num_classes, vectors.shape[1]))
    np.add.at(sums, labels, normalized)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).T.astype(np.float32)


def check_head(training: Training, model: Network) -> None:
    """Checks that the head can have the requested initial weights.

    Raises:
      UserError: 'zeros' or 'class_means' is requested, but the head is not a dense layer.
    """
    if training.initialization.head != "lecun" and not model.has_linear_head:
        raise UserError(
            f"config field 'training.initialization.head' is {training.initialization.head!r}, but the head of "
            f"{model.architecture} is a convolution with a ReLU, not a dense layer; use 'lecun'."
        )
