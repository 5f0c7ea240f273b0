"""Augmentation of training images: all active augmentations in order, and fixed random views of an image."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config import from_dict
from jaxft.config.sections import sections_of
from jaxft.config.training.augmentation import AugmentationConfig
from jaxft.core.registries import AUGMENTATIONS
from jaxft.data.augmentation.base import Augmentation
from jaxft.data.augmentation.evaluation import center_crop

# The keys of these augmentations come from one split of the key, so more registered augmentations do not change them.
BATCH_STREAMS = ("crop", "flip")
IMAGE_STREAMS = ("randaugment", "color_jitter", "erasing")


@dataclass(frozen=True)
class Augmentations:
    """The active augmentations, without mixup and cutmix.

    Attributes:
      active: (name, options) of each augmentation, in the order of application.
    """

    active: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Augmentations":
        """Returns the augmentations of config fields.

        Args:
          fields: values by dotted names, such as `{"flip.enabled": True, "crop.padding_px": 4}`.

        Raises:
          UserError: a field is unknown, or its value is not allowed.
        """
        return active_augmentations(from_dict(AugmentationConfig, fields, "augmentation"))

    @property
    def is_empty(self) -> bool:
        """Returns whether no augmentation is active."""
        return not self.active

    @property
    def crop_px(self) -> int | None:
        """Returns the side of the cropped images, in pixels. If None, images keep their size."""
        return next((options.size_px for name, options in self.active if name == "crop"), None)

    @property
    def has_branches(self) -> bool:
        """Returns whether an augmentation selects one of several branches for each image."""
        return any(AUGMENTATIONS[name].value.per_image for name, _ in self.active)

    def of_kind(self, per_image: bool) -> list[tuple[str, Augmentation, Any]]:
        """Returns (name, augmentation, options) of the active augmentations of single images, or those of batches."""
        active = [(name, AUGMENTATIONS[name].value, options) for name, options in self.active]
        return [item for item in active if item[1].per_image == per_image]


def active_augmentations(config: AugmentationConfig) -> Augmentations:
    """Returns the active augmentations of a config in the order of the registry, without mixup and cutmix."""
    sections = sections_of(config).items()
    return Augmentations(
        tuple((name, options) for name, options in sections if AUGMENTATIONS[name].value.is_active(options))
    )


def augment(key: jax.Array, images: jax.Array, augmentations: Augmentations) -> jax.Array:
    """Returns augmented `images: [n, h, w, c] uint8`. Augmentations of batches precede those of single images."""
    keys = _split(key, BATCH_STREAMS)
    for name, augmentation, options in augmentations.of_kind(per_image=False):
        images = augmentation.apply(_key_of(name, keys, key), images, options)
    if augmentations.has_branches:
        image_keys = jax.random.split(jax.random.fold_in(key, 2), len(images))
        images = over_images(
            lambda image_key, image: _augment_image(image_key, image, augmentations), image_keys, images
        )
    return images


def _augment_image(key: jax.Array, image: jax.Array, augmentations: Augmentations) -> jax.Array:
    """Returns `image: [h, w, c] uint8` after the active augmentations of single images."""
    keys = _split(key, IMAGE_STREAMS)
    for name, augmentation, options in augmentations.of_kind(per_image=True):
        image = augmentation.apply(_key_of(name, keys, key), image, options)
    return image


def _split(key: jax.Array, names: Sequence[str]) -> dict[str, jax.Array]:
    return dict(zip(names, jax.random.split(key, len(names))))


def _key_of(name: str, keys: dict[str, jax.Array], key: jax.Array) -> jax.Array:
    return keys[name] if name in keys else jax.random.fold_in(key, zlib.crc32(name.encode()))


def over_images(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Returns `function` mapped over the first axis of the arrays [n, ...].

    On a CPU, it runs on one image after another, so only the selected branch is computed. On other devices, it runs on
    all images together, which computes every branch and selects.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda image_args: function(*image_args), arrays)
    return jax.vmap(function)(*arrays)


def view(
    key: jax.Array, images: jax.Array, rows: jax.Array, views: jax.Array, augmentations: Augmentations
) -> jax.Array:
    """Returns one fixed random view of each image, [n, h, w, c] uint8.

    View 0 is the image without augmentation, or its center crop if the augmentations crop. The key, the number of the
    view and the row of the image determine every other view, so it is always the same.

    Args:
      key: the key of all views.
      images: [n, h, w, c] uint8.
      rows: [n] integers, rows of the images in their set.
      views: [n] integers, numbers of the views.
      augmentations: the augmentations.
    """

    def draw_view(image: jax.Array, row: jax.Array, number: jax.Array) -> jax.Array:
        view_key = jax.random.fold_in(jax.random.fold_in(key, number), row)
        original = center_crop(image[None], augmentations.crop_px)[0]
        return jnp.where(number == 0, original, augment(view_key, image[None], augmentations)[0])

    if augmentations.has_branches:
        return over_images(draw_view, images, rows, views)
    return jax.vmap(draw_view)(images, rows, views)
