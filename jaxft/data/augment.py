"""Random changes of images on the device, pure in (key, images)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a random resized crop; Szegedy et al. 2015, section 6


@dataclass(frozen=True)
class Changes:
    """Which random changes are made: a resized crop, a crop after padding, a mirror image."""

    crop_scale_min: float = 1.0
    crop_padding_px: int = 0
    flip: bool = False

    @property
    def is_none(self) -> bool:
        """Tells whether nothing is changed."""
        return self == Changes()


def pad_crop(key: jax.Array, images: jax.Array, padding_px: int) -> jax.Array:
    """Returns `images: [n, h, w, c]` shifted by up to `padding_px` each way, with zeros where nothing was.

    The random crop of He et al. 2016, section 4.2 (there 4 pixels at 32): offsets uniform, one pair an image.
    """
    n, height, width, channels = images.shape
    border = (padding_px, padding_px)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    offsets = jax.random.randint(key, (n, 2), 0, 2 * padding_px + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def resized_crop(key: jax.Array, images: jax.Array, scale_min: float) -> jax.Array:
    """Returns a random part of each of `images: [n, h, w, c] uint8`, resized to the whole's size, bilinear.

    The part's share of the area is uniform in [scale_min, 1], its aspect ratio log-uniform in [3/4, 4/3], its place
    uniform (Szegedy et al. 2015, section 6, there with a share from 0.08). A part that would be wider or higher than
    the image is cut to the image's own width or height; torchvision draws anew up to ten times instead.
    """
    n, height, width, _ = images.shape
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (n,), minval=scale_min, maxval=1.0)
    low, high = ASPECT_RATIOS
    ratio = jnp.exp(jax.random.uniform(ratio_key, (n,), minval=jnp.log(low), maxval=jnp.log(high)))
    shares = jnp.minimum(jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], axis=1), 1.0)  # height, width
    first = jax.random.uniform(place_key, (n, 2)) * (1 - shares) * jnp.asarray([[height, width]])

    resized = jax.vmap(resized_part)(images.astype(jnp.float32), first, shares)
    return jnp.clip(jnp.round(resized), 0, 255).astype(images.dtype)


def resized_part(image: jax.Array, first: jax.Array, share: jax.Array) -> jax.Array:
    """Returns the part of `image: [h, w, c]` that begins at `first: [2]` pixels and is `share: [2]` of its sides.

    It is resized to the whole's size, bilinear with antialiasing, as in Pillow; but at the part's border the pixels
    beside it weigh in here.
    """
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), 1 / share, -first / share, "linear", antialias=True
    )


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns `images: [n, h, w, c]`, each mirrored left to right with probability one half."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def augment(key: jax.Array, images: jax.Array, changes: Changes) -> jax.Array:
    """Returns `images: [n, h, w, c] uint8` after the changes that are asked for."""
    crop_key, flip_key = jax.random.split(key)
    if changes.crop_scale_min < 1:
        images = resized_crop(jax.random.fold_in(crop_key, 1), images, changes.crop_scale_min)
    if changes.crop_padding_px:
        images = pad_crop(crop_key, images, changes.crop_padding_px)
    if changes.flip:
        images = flip(flip_key, images)
    return images


def view(key: jax.Array, images: jax.Array, rows: jax.Array, views: jax.Array, changes: Changes) -> jax.Array:
    """Returns, of each of `images: [n, h, w, c] uint8`, the view that its number in `views: [n]` names.

    View 0 is the image itself; the others are what `changes` make of it, drawn from the key, the number of the view
    and the image's row in its set: the same whenever it is asked for.
    """

    def change(image: jax.Array, row: jax.Array, number: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, number), row)
        return jnp.where(number == 0, image, augment(own, image[None], changes)[0])

    return jax.vmap(change)(images, rows, views)
