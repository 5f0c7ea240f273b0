"""Receptive fields of the positions of an activation, from gradients, and the patches of images that they cover."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BATCH_SIZE = 8  # positions whose gradients are computed together


class ReceptiveFields(NamedTuple):
    """The receptive fields of all positions of an activation [height, width], in pixels, clipped to the image.

    Attributes:
      rows: [height, 2], the first row of pixels, and the last one plus 1, that positions in this row depend on.
      columns: [width, 2], the same for columns.
    """

    rows: np.ndarray
    columns: np.ndarray

    def boxes(self, positions: np.ndarray) -> np.ndarray:
        """Returns [..., 4], the boxes (top, left, bottom, right) of `positions: [..., 2]`; bottom and right excluded.

        Raises:
          IndexError: a position is outside of the activation.
        """
        positions = np.asarray(positions)
        (top, bottom), (left, right) = (
            np.moveaxis(sides[positions[..., axis]], -1, 0) for axis, sides in enumerate((self.rows, self.columns))
        )
        return np.stack([top, left, bottom, right], -1)


def receptive_fields(
    activations: Callable[[jax.Array], jax.Array], image_shape: Sequence[int], num_images: int = 2, seed: int = 0
) -> ReceptiveFields:
    """Returns the receptive field of each position of an activation, for any network.

    A position depends on a pixel if the gradient of its activations by the pixel is not 0 for one of the images. The
    images are normal noise. For each row of positions, a random combination of all activations in the row is
    differentiated, so the rows of a box must not depend on its column, as in convolutional networks. Otherwise, the
    boxes are those that enclose the receptive fields of all positions in a row and in a column.

    A pixel is missed if its gradient is 0 for all images, such as behind dead units, behind a batch norm with scale 0
    or in max pooling of few channels; more images help. Use freshly initialized or pretrained variables.

    Args:
      activations: returns [n, height, width, c] for images [n, *image_shape].
      image_shape: the shape of one image, (height, width, channels).
      num_images: the number of images.
      seed: seed of the images and of the combinations.

    Raises:
      ValueError: the activations do not have four axes, or a row or column of positions depends on no pixel.

    Reference: Luo et al. 2016, "Understanding the effective receptive field in deep convolutional neural networks",
    section 2, for the gradient; there with all weights equal, here only where it is not 0.
    """
    keys = jax.random.split(jax.random.key(seed), num_images)
    shape = jax.eval_shape(activations, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)).shape
    if len(shape) != 4:
        raise ValueError(f"the activations have the shape {list(shape)}; it must be [n, height, width, c].")

    @jax.jit
    def support(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_image, of_rows, of_columns = jax.random.split(key, 3)
        image = jax.random.normal(of_image, (1, *image_shape))
        out, pull_back = jax.vjp(activations, image)

        def of_side(key: jax.Array, axis: int) -> jax.Array:
            weights = jax.random.normal(key, out.shape, out.dtype)

            def reached(i: jax.Array) -> jax.Array:
                index = jnp.arange(out.shape[axis]).reshape([-1 if a == axis else 1 for a in range(4)])
                gradient = pull_back(jnp.where(index == i, weights, jnp.zeros((), out.dtype)))[0]
                return (gradient != 0).any([a for a in range(4) if a != axis])

            return jax.lax.map(reached, jnp.arange(out.shape[axis]), batch_size=BATCH_SIZE)

        return of_side(of_rows, 1), of_side(of_columns, 2)

    rows, columns = (np.any(of_images, 0) for of_images in zip(*(jax.device_get(support(key)) for key in keys)))
    return ReceptiveFields(_extent(rows, "row"), _extent(columns, "column"))


def _extent(is_reached: np.ndarray, side: str) -> np.ndarray:
    """Returns [positions, 2], the first and the last pixel (excluded) of `is_reached: [positions, pixels]`."""
    if not is_reached.any(1).all():
        raise ValueError(
            f"{side} {int(is_reached.any(1).argmin())} of the activation depends on no pixel of the image."
        )
    return np.stack([is_reached.argmax(1), is_reached.shape[1] - is_reached[:, ::-1].argmax(1)], 1)


def patches(images: Any, boxes: np.ndarray) -> list[np.ndarray]:
    """Returns the patches [bottom - top, right - left, channels] of the images, one of each image.

    Args:
      images: [n, height, width, channels], such as the top images of a unit.
      boxes: [n, 4], (top, left, bottom, right) of each patch, in pixels; bottom and right excluded.

    Raises:
      ValueError: the numbers of images and boxes differ, or a box is empty or not inside of its image.
    """
    images, boxes = np.asarray(images), np.asarray(boxes)
    if images.ndim != 4 or boxes.shape != (len(images), 4):
        raise ValueError(
            f"the shapes are {list(images.shape)} and {list(boxes.shape)}; they must be [n, height, width, channels] "
            "and [n, 4]."
        )
    low, high = boxes[:, :2], boxes[:, 2:]
    if (low < 0).any() or (high > np.array([images.shape[1:3]])).any() or (low >= high).any():
        raise ValueError("a box is empty or not inside of its image.")
    return [image[top:bottom, left:right] for image, (top, left, bottom, right) in zip(images, boxes)]
