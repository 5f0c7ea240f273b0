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
    """A batch, or a micro-batch of it: every leaf has a leading axis of images.

    Attributes:
      images: [n, h, w, 3], or outputs of the frozen prefix.
      original: targets of the images.
      mixed_in: targets of the images that are mixed into them.
      positions: [n] their places in the whole batch.
    """

    images: jax.Array
    original: Targets
    mixed_in: Targets
    positions: jax.Array

    def targets(self, share: jax.Array | None) -> BatchTargets:
        """Returns the targets of images of which each keeps `share` of its own target; None: they are not mixed."""
        return BatchTargets(self.original, self.mixed_in, share)


class Metrics(NamedTuple):
    """Mean loss and accuracy of a batch."""

    loss: jax.Array
    accuracy: jax.Array


def load_images(
    phase: Phase, state: State, labels: jax.Array, images: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the images of `rows`, augmented, and their labels."""
    if phase.from_features or not phase.augments_images:
        return images[rows], labels[rows]
    if phase.views:
        at = rows % len(images)
        return view(state.key, images[at], at, rows // len(images), phase.augmentations), labels[at]
    return augment(jax.random.fold_in(state.key, state.step), images[rows], phase.augmentations), labels[rows]


def mix_images(phase: Phase, state: State, hparams: HParams, images: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Returns images mixed in pairs, and the share of its own target that each keeps; None if nothing is mixed."""
    if not phase.mixes:
        return images, None
    alphas = {"mixup": hparams.mixup_alpha, "cutmix": hparams.cutmix_alpha}
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), MIX_STREAM)
    return mix(key, images, {name: alphas[name] for name in phase.mixes})


def load_batch(
    phase: Phase, state: State, hparams: HParams, labels: jax.Array, images: jax.Array, rows: jax.Array
) -> tuple[Batch, jax.Array | None]:
    """Returns the batch of `rows`, augmented and mixed, and the share of its own target that each image keeps."""
    batch_images, batch_labels = load_images(phase, state, labels, images, rows)
    batch_images, share = mix_images(phase, state, hparams, batch_images)
    original = Targets(batch_labels, rows)
    mixed_in = jax.tree.map(lambda x: x[::-1], original)  # as `mix` pairs images
    return Batch(batch_images, original, mixed_in, jnp.arange(len(rows))), share
