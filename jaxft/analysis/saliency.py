"""Pictures of the pixels that a score depends on: gradients, guided backpropagation (`guided`), and Grad-CAM.

A network is a function `scores(variables, images)`. Grad-CAM takes its two parts, below and above an activation. For a
network of jaxft, the parts are

    features = lambda variables, images: model.apply(variables, images, stop=block)
    scores = lambda variables, activations: model.apply(variables, activations, after=block)

The scores are logits. Images must not depend on each other, so batch norms use their running statistics.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.ops.precision import true_products

Apply = Callable[[Any, jax.Array], jax.Array]  # (variables, images or activations) -> activations or scores


@functools.partial(jax.jit, static_argnums=0)
@true_products
def image_gradients(scores: Apply, variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns [n, height, width, channels] float32, the gradient of the score of a class with respect to each image.

    Args:
      scores: returns the scores [n, classes] from the variables and the images.
      variables: the variables of the network: a tree of arrays.
      images: [n, height, width, channels] float32.
      classes: [n] integers, the class of each image whose score is differentiated. For a class that does not exist, the
        gradient is nan.

    Raises:
      ValueError: the shapes are wrong.
    """
    return jax.grad(lambda x: _selected(scores(variables, x), classes).sum())(images.astype(jnp.float32))


def gradient_saliency(scores: Apply, variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns [n, height, width] float32, the maximum over the color channels of |d score / d image|.

    Args:
      scores: returns the scores [n, classes] from the variables and the images. With `guided(scores)`, the result is
        guided backpropagation.
      variables: the variables of the network: a tree of arrays.
      images: [n, height, width, channels] float32.
      classes: [n] integers, as in `image_gradients`.

    Reference: Simonyan, Vedaldi & Zisserman 2014, "Deep inside convolutional networks", section 3.1.
    """
    return jnp.abs(image_gradients(scores, variables, images, classes)).max(-1)


@functools.partial(jax.jit, static_argnums=(0, 1))
@true_products
def grad_cam(features: Apply, scores: Apply, variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns [n, h, w] float32, the Grad-CAM map ReLU(sum_k alpha_k A_k) of each image.

    A_k are the channels of an activation [n, h, w, c], and alpha_k is the mean over the positions of the gradient of
    the score of the class with respect to A_k.

    Args:
      features: returns the activation [n, h, w, c] from the variables and the images.
      scores: returns the scores [n, classes] from the variables and this activation.
      variables: the variables of the network: a tree of arrays.
      images: [n, height, width, channels] float32.
      classes: [n] integers, as in `image_gradients`.

    Raises:
      ValueError: the shapes are wrong.

    Reference: Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based
    localization", equations 1 and 2.
    """
    x = features(variables, images)
    if x.ndim != 4:
        raise ValueError(f"the activation has the shape {list(x.shape)}; Grad-CAM needs [n, height, width, channels].")
    gradients = jax.grad(lambda x: _selected(scores(variables, x), classes).sum())(x)
    alphas = gradients.mean((1, 2), dtype=jnp.float32)
    return jax.nn.relu(jnp.einsum("nhwc,nc->nhw", x.astype(jnp.float32), alphas))


def upsampled(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns [..., *size], the maps interpolated bilinearly to the size of the image.

    The outer edges of both grids are aligned (half-pixel centers), as with `align_corners=False` in PyTorch.

    Args:
      maps: [..., h, w].
      size: (height, width) of the image.
    """
    return jax.image.resize(maps, (*maps.shape[:-2], *size), "linear", antialias=False)


def normalized(maps: jax.Array) -> jax.Array:
    """Returns the maps [..., h, w], each divided by its largest absolute value; a map of zeros is unchanged."""
    largest = jnp.abs(maps).max((-2, -1), keepdims=True)
    return maps / jnp.where(largest > 0, largest, 1)


class OverRuns(NamedTuple):
    """The mean of pictures over runs.

    Attributes:
      mean: [...], the mean over R runs.
      std: [...], the standard deviation over the runs, with R - 1 in the denominator; nan for one run.
    """

    mean: jax.Array
    std: jax.Array


def over_runs(picture: Callable[[Any], jax.Array], variables: Any) -> OverRuns:
    """Returns the mean and the standard deviation over R runs of a picture [...], computed for one run at a time.

    Example: `over_runs(lambda v: normalized(grad_cam(features, scores, v, images, classes)), variables)`. Gradients of
    different runs have different scales, which `normalized` removes.

    Args:
      picture: returns an array of variables.
      variables: the variables of all runs: a tree of arrays with a leading axis of R runs on every leaf.

    Raises:
      ValueError: the leaves do not have the same number of runs, at least 1.
    """
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(variables)}
    if len(counts) != 1 or not next(iter(counts), ()) or (0,) in counts:
        raise ValueError("every leaf of the variables must have a leading axis with the same number of runs.")
    pictures = jax.lax.map(picture, variables)
    if len(pictures) < 2:
        return OverRuns(pictures[0], jnp.full_like(pictures[0], jnp.nan))
    return OverRuns(pictures.mean(0), pictures.std(0, ddof=1))


def _selected(scores: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns [n], the score of the class of each image."""
    classes = jnp.asarray(classes)
    if scores.ndim != 2 or classes.shape != scores.shape[:1] or not jnp.issubdtype(classes.dtype, jnp.integer):
        raise ValueError(
            f"the scores have the shape {list(scores.shape)} and the classes {list(classes.shape)}; they must be "
            "[n, classes] and [n] integers."
        )
    is_class = (classes >= 0) & (classes < scores.shape[1])
    selected = jnp.take_along_axis(scores, jnp.where(is_class, classes, 0)[:, None], 1)[:, 0]
    return selected * jnp.where(is_class, 1, jnp.nan).astype(scores.dtype)
