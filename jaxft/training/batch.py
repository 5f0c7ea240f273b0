"""The batch of a step: images and targets, loaded, augmented and mixed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.data.augmentation.augment import augment, view
from jaxft.data.augmentation.mixing import mix
from jaxft.training.hparams import HParams
from jaxft.training.phase import Phase
from jaxft.training.state import State
from jaxft.training.targets import BatchTargets, Targets

MIX_STREAM = 3  # of the step's key


class Batch(NamedTuple):
    """A batch or a micro-batch; the first axis of every leaf is the images.

    Attributes:
      images: [n, h, w, 3], or outputs of the frozen prefix.
      original: targets of the images.
      mixed_in: targets of the images that mixup or cutmix mixes into them.
      positions: [n] int32, positions of the images in the whole batch.
    """

    images: jax.Array
    original: Targets
    mixed_in: Targets
    positions: jax.Array

    def targets(self, mix_weight: jax.Array | None) -> BatchTargets:
        """Returns the targets of the batch.

        `mix_weight` is a scalar: the weight of the original target of each image. If None, images are not mixed.
        """
        return BatchTargets(self.original, self.mixed_in, mix_weight)


class Metrics(NamedTuple):
    """Mean loss and accuracy of a batch."""

    loss: jax.Array
    accuracy: jax.Array


def load_images(
    phase: Phase, state: State, labels: jax.Array, images: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns (augmented images [n, ...], labels [n]).

    Args:
      phase: the static part of training.
      state: its key and step determine the random augmentation.
      labels: [images] int32.
      images: [images, h, w, 3] uint8, or outputs of the frozen prefix.
      rows: [n] int32, the images to load. With fixed views, row = view * number of images + image.
    """
    if phase.from_features or not phase.augments_images:
        return images[rows], labels[rows]
    if phase.views:
        image_rows = rows % len(images)
        views = view(state.key, images[image_rows], image_rows, rows // len(images), phase.augmentations)
        return views, labels[image_rows]
    return augment(jax.random.fold_in(state.key, state.step), images[rows], phase.augmentations), labels[rows]


def mix_images(phase: Phase, state: State, hparams: HParams, images: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Returns (mixed images [n, h, w, 3], weight of the original image and target in each mixture, a scalar).

    The weight is None if the phase does not mix images.

    Args:
      phase: the static part of training.
      state: its key and step determine the mixture.
      hparams: the parameters alpha of mixup and cutmix.
      images: [n, h, w, 3].
    """
    if not phase.mixes:
        return images, None
    alphas = {"mixup": hparams.mixup_alpha, "cutmix": hparams.cutmix_alpha}
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), MIX_STREAM)
    return mix(key, images, {name: alphas[name] for name in phase.mixes})


def load_batch(
    phase: Phase, state: State, hparams: HParams, labels: jax.Array, images: jax.Array, rows: jax.Array
) -> tuple[Batch, jax.Array | None]:
    """Returns (the augmented and mixed batch, the weight of the original targets as in `mix_images`).

    Args:
      phase: the static part of training.
      state: its key and step determine augmentation and mixing.
      hparams: the numbers of the trial.
      labels: [images] int32.
      images: [images, h, w, 3] uint8, or outputs of the frozen prefix.
      rows: [n] int32, the images of the batch.
    """
    batch_images, batch_labels = load_images(phase, state, labels, images, rows)
    batch_images, mix_weight = mix_images(phase, state, hparams, batch_images)
    original = Targets(batch_labels, rows)
    mixed_in = jax.tree.map(lambda x: x[::-1], original)  # `mix` pairs images in the same way
    return Batch(batch_images, original, mixed_in, jnp.arange(len(rows))), mix_weight
