"""Activation maximization: images that activate a unit, by gradient ascent from noise."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.ops.precision import true_products

Apply = Callable[[Any, jax.Array], jax.Array]


@dataclass(frozen=True)
class Ascent:
    """The gradient ascent on an image x, in the units of the network input.

    A step adds rate (g - l2 x + total_variation D x), where g is the gradient of the activation, divided by the root
    mean square of its values. So the penalties do not depend on the scale of the activations, and without a total
    variation, a linear unit has an image with a root mean square of 1 / l2.

    Attributes:
      steps: the number of steps.
      rate: the step size; rate (l2 + 8 total_variation) must be below 2, or the ascent diverges.
      jitter_px: the largest random shift of the image in each step, in pixels on both axes.
      l2: the factor of -x, the gradient of -||x||^2 / 2.
      total_variation: the factor of D x, the sum of the differences between a pixel and its neighbors. It is the
        gradient of -1/2 times the sum of the squared differences of neighboring pixels.
      initial_std: standard deviation of the noise in the first image.
    """

    steps: int = 256
    rate: float = 0.1
    jitter_px: int = 4
    l2: float = 0.2
    total_variation: float = 1.0
    initial_std: float = 0.5


class Maximized(NamedTuple):
    """Images that activate units.

    Attributes:
      images: [u, height, width, channels] float32.
      activations: [u], the mean activation over the positions for each image.
      initial_activations: [u], the mean activation for the first images, which are noise.
    """

    images: np.ndarray
    activations: np.ndarray
    initial_activations: np.ndarray


def maximize_activations(
    activations: Apply,
    variables: Any,
    channels: Sequence[int],
    image_shape: Sequence[int],
    key: jax.Array,
    ascent: Ascent | None = None,
    batch_size: int = 16,
) -> Maximized:
    """Returns for each unit an image that maximizes its mean activation over the positions, minus the penalties.

    The ascent starts from normal noise. The images are not clipped to valid pixels. A unit that is dead for the noise
    has a gradient of 0, and its image only shrinks.

    Args:
      activations: returns [n, height, width, c] or [n, c] from the variables and the images. To maximize one position,
        let it return only this position.
      variables: the variables of the network: a tree of arrays.
      channels: [u], the indices of the units.
      image_shape: the shape of one image, (height, width, channels).
      key: a key of JAX for the noise and the jitter. The image of a unit depends neither on the other units nor on
        `batch_size`, up to rounding.
      ascent: the settings of the ascent; if None, the defaults.
      batch_size: the number of images that are computed together.

    Raises:
      ValueError: there are no units, a unit does not exist, or `batch_size` is below 1.

    Reference: Erhan et al. 2009, "Visualizing higher-layer features of a deep network"; Simonyan, Vedaldi & Zisserman
    2014, "Deep inside convolutional networks", section 2, for the L2 penalty; Mahendran & Vedaldi 2015, "Understanding
    deep image representations by inverting them", for the total variation (with beta = 2); Mordvintsev, Olah & Tyka
    2015, "Inceptionism", for the jitter and the normalized gradient (there by the mean absolute value).
    """
    example = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    num_channels = jax.eval_shape(activations, variables, example).shape[-1]
    indices = np.asarray(channels, np.int32)
    if indices.ndim != 1 or not indices.size or indices.min() < 0 or indices.max() >= num_channels or batch_size < 1:
        raise ValueError(
            f"`channels` must be one or more units from 0 to {num_channels - 1}, and `batch_size` at least 1."
        )
    of_noise, of_jitter = jax.random.split(key)
    keys = jax.vmap(lambda index: jax.random.fold_in(of_noise, index))(indices)
    settings, shape = ascent or Ascent(), tuple(image_shape)
    rows = [slice(begin, begin + batch_size) for begin in range(0, len(indices), batch_size)]
    batches = [_ascend(activations, settings, shape, variables, indices[i], keys[i], of_jitter) for i in rows]
    return Maximized(*(np.concatenate(arrays) for arrays in zip(*jax.device_get(batches))))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
@true_products
def _ascend(
    activations: Apply,
    ascent: Ascent,
    image_shape: tuple[int, ...],
    variables: Any,
    channels: jax.Array,
    keys: jax.Array,
    jitter_key: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def reached(images: jax.Array) -> jax.Array:
        x = activations(variables, images).astype(jnp.float32)
        means = x.reshape(len(x), -1, x.shape[-1]).mean(1)
        return jnp.take_along_axis(means, channels[:, None], 1)[:, 0]

    def penalty(images: jax.Array) -> jax.Array:
        variation = sum(jnp.square(jnp.diff(images, axis=axis)).sum() for axis in (1, 2))
        return (ascent.l2 * jnp.square(images).sum() + ascent.total_variation * variation) / 2

    def step(images: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        shift = jax.random.randint(key, (2,), -ascent.jitter_px, ascent.jitter_px + 1)
        gradient = jax.grad(lambda x: reached(jnp.roll(x, shift, (1, 2))).sum())(images)
        largest = jnp.abs(gradient).max((1, 2, 3), keepdims=True)  # without it, squares of small gradients underflow
        scaled = gradient / jnp.where(largest > 0, largest, 1)
        size = jnp.sqrt(jnp.square(scaled).mean((1, 2, 3), keepdims=True))
        direction = scaled / jnp.where(size > 0, size, 1) - jax.grad(penalty)(images)
        return images + ascent.rate * direction, None

    initial = ascent.initial_std * jax.vmap(lambda key: jax.random.normal(key, image_shape))(keys)
    images, _ = jax.lax.scan(step, initial, jax.random.split(jitter_key, ascent.steps))
    return images, reached(images), reached(initial)
