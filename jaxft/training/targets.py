"""The training targets of images, and what follows from their kind: loss, predictions, accuracy.

The step and the evaluation know targets only through these classes, so that another kind of label is another class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax

from jaxft.core.registries import LOSSES
from jaxft.training.losses import Loss

if TYPE_CHECKING:
    from jaxft.training.hparams import HParams


class Targets(NamedTuple):
    """Training targets of a batch: labels, and row indices among the phase's images."""

    labels: jax.Array
    rows: jax.Array


class BatchTargets(NamedTuple):
    """Targets of a batch whose images may be mixed in pairs.

    Attributes:
      original: targets of each image.
      mixed_in: those of the image that is mixed into it.
      share: the share of its own target that an image keeps, a scalar; None if images are not mixed.
    """

    original: Targets
    mixed_in: Targets
    share: jax.Array | None

    def mean(self, function: Callable[[Targets], jax.Array]) -> jax.Array:
        """Returns the mean over the images of `function(targets)`, [n]; of mixed images by the shares."""
        mean = function(self.original).mean()
        return mean if self.share is None else self.share * mean + (1 - self.share) * function(self.mixed_in).mean()


@dataclass(frozen=True)
class SingleLabel:
    """One class an image: labels are [n] int32. It is static in the compiled program.

    Attributes:
      loss: name of the loss, in LOSSES.
      weighted: whether classes weigh differently in it.
    """

    loss: str = "cross_entropy"
    weighted: bool = False

    @property
    def _loss(self) -> Loss:
        return LOSSES[self.loss].value

    def losses(self, logits: jax.Array, labels: jax.Array, hparams: "HParams") -> jax.Array:
        """Returns [n], the training loss of each image."""
        each = self._loss.train(logits, labels, hparams)
        return each * hparams.class_weights[labels] if self.weighted else each

    def evaluation_losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns [n], the loss of each image in evaluation."""
        return self._loss.evaluate(logits, labels)

    def predictions(self, logits: jax.Array) -> jax.Array:
        """Returns [n], the predicted class of each image."""
        return logits.argmax(-1)

    def is_correct(self, predictions: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns [n] bool, whether each prediction is right."""
        return predictions == labels
