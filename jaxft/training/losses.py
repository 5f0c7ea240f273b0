"""Losses for images with one label each, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import optax

from jaxft.core.registries import LOSSES

if TYPE_CHECKING:
    from jaxft.training.hparams import HParams


@dataclass(frozen=True)
class Loss:
    """A loss, as two functions.

    Attributes:
      train: (logits [n, classes], labels [n], numbers of the trial) -> training loss of each image [n].
      evaluate: (logits [n, classes], labels [n]) -> loss of each image [n] in validation and test.
    """

    train: "Callable[[jax.Array, jax.Array, HParams], jax.Array]"
    evaluate: Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, hparams: "HParams") -> jax.Array:
    """Returns [n], the cross-entropy of each image with label smoothing (Szegedy et al. 2016, section 7).

    `logits: [n, classes]`, `labels: [n]`.
    """
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    smooth = one_hot * (1 - hparams.label_smoothing) + hparams.label_smoothing / logits.shape[-1]
    return optax.softmax_cross_entropy(logits, smooth)


LOSSES.register(
    "cross_entropy",
    Loss(cross_entropy, optax.softmax_cross_entropy_with_integer_labels),
    help="cross-entropy, with label smoothing in training",
)
