"""Training targets of images, and their loss, predictions and accuracy.

The training step and the evaluation use targets only through these classes. A new kind of label needs a new class.
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
    """Training targets of a batch: labels [n] int32, and rows [n] int32, the indices of the images in the phase."""

    labels: jax.Array
    rows: jax.Array


class BatchTargets(NamedTuple):
    """Targets of a batch whose images may be mixed in pairs.

    Attributes:
      original: targets of each image.
      mixed_in: for each image, targets of the image that is mixed into it.
      mix_weight: weight of the original target, a scalar (lambda in mixup and cutmix); None if images are not mixed.
    """

    original: Targets
    mixed_in: Targets
    mix_weight: jax.Array | None

    def mean(self, function: Callable[[Targets], jax.Array]) -> jax.Array:
        """Returns the mean of `function(targets): [n]` over the images, a scalar; weighted for mixed images."""
        mean, weight = function(self.original).mean(), self.mix_weight
        return mean if weight is None else weight * mean + (1 - weight) * function(self.mixed_in).mean()


@dataclass(frozen=True)
class SingleLabel:
    """The kind of targets with one class per image: labels are [n] int32. It is a static part of compiled programs.

    Attributes:
      loss: name of the loss in LOSSES.
      weighted: whether the training loss has class weights.
    """

    loss: str = "cross_entropy"
    weighted: bool = False

    @property
    def _loss(self) -> Loss:
        return LOSSES[self.loss].value

    def losses(self, logits: jax.Array, labels: jax.Array, hparams: "HParams") -> jax.Array:
        """Returns [n], the training loss of each image, for `logits: [n, classes]` and `labels: [n]`."""
        losses = self._loss.train(logits, labels, hparams)
        return losses * hparams.class_weights[labels] if self.weighted else losses

    def evaluation_losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns [n], the loss of each image in evaluation, for `logits: [n, classes]` and `labels: [n]`."""
        return self._loss.evaluate(logits, labels)

    def predictions(self, logits: jax.Array) -> jax.Array:
        """Returns [n] int32, the predicted class of each image, for `logits: [n, classes]`."""
        return logits.argmax(-1)

    def is_correct(self, predictions: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns [n] bool, whether each prediction is correct; `predictions` and `labels` are [n]."""
        return predictions == labels
