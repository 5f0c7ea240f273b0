"""What is static in a stretch of training and in an evaluation."""

from dataclasses import dataclass, replace

from jaxft.data.augmentation.augment import Augmentations
from jaxft.models import Network, Preprocessing
from jaxft.training.optimizers import LBFGS, Optimizer
from jaxft.training.regularizers.active import ActiveRegularizers
from jaxft.training.source import SourceNeeds
from jaxft.training.targets import SingleLabel

NONE = ActiveRegularizers()
SINGLE_LABEL = SingleLabel()


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one compiled program: everything that is static in it.

    Attributes:
      prefix: the last block of the frozen prefix, which runs without gradient and with its statistics frozen.
      tracked: the batch-norm statistics that move.
      batch_size: images in a step; with L-BFGS all images and views.
      augmentations: random changes of single images.
      views: number of fixed views of each image, which its index names (`jaxft.data.augmentation.augment.view`).
      from_features: whether the phase reads outputs of the frozen prefix in place of images.
      mixes: ways in which the images of a batch are mixed (`jaxft.data.augmentation.mixing`).
      targets: the kind of the labels, with loss and accuracy.
      interval: the steps of the schedule that the phase covers, from one to before the other; None: all of them.
      num_micro_batches: number of micro-batches of a batch.
      sharpness: whether the gradient is SAM's.
      averaged: whether a moving average of the weights is evaluated and kept.
      virtual_batch_size: images in a group that batch norm normalizes; None: all of the batch.
      recalibrates: whether tracked statistics are replaced at the end.
      remat: whether a gradient keeps only the inputs of blocks, and computes their insides again.
    """

    model: Network
    preprocessing: Preprocessing
    optimizer: Optimizer
    prefix: str | None
    tracked: tuple[str, ...]
    batch_size: int
    augmentations: Augmentations
    views: int = 0
    from_features: bool = False
    mixes: tuple[str, ...] = ()
    targets: SingleLabel = SINGLE_LABEL
    interval: tuple[int, int] | None = None
    num_micro_batches: int = 1
    sharpness: bool = False
    averaged: bool = False
    regularizers: ActiveRegularizers = NONE
    virtual_batch_size: int | None = None
    recalibrates: bool = False
    remat: bool = False

    @property
    def trainable(self) -> tuple[str, ...]:
        """Returns the names of the leaves that train."""
        return tuple(name for name, _ in self.optimizer.groups)

    @property
    def num_steps(self) -> int:
        """Returns the length of the phase."""
        return self.optimizer.schedule.num_steps if self.interval is None else self.interval[1] - self.interval[0]

    @property
    def first_step(self) -> int:
        """Returns the step of the schedule at which the phase begins; later than 0 it goes on from the one before."""
        return 0 if self.interval is None else self.interval[0]

    @property
    def augments_images(self) -> bool:
        """Returns whether images are changed at random."""
        return not self.augmentations.is_none or bool(self.mixes)

    @property
    def keeps_prefix(self) -> bool:
        """Returns whether the output of the frozen prefix for an image is the same at every step, and can be kept."""
        return self.prefix is not None and (self.views > 0 or not self.augments_images)

    @property
    def head_only(self) -> bool:
        """Returns whether only the head is computed."""
        return self.from_features and self.prefix in (self.model.feature_block, self.model.head)

    @property
    def heads_of_features(self) -> bool:
        """Returns whether only the head will be computed, step by step, from kept features."""
        return (
            self.keeps_prefix and self.prefix in (self.model.feature_block, self.model.head) and not self.is_full_batch
        )

    @property
    def source_needs(self) -> SourceNeeds:
        """Returns what the regularizers need of the source."""
        return self.regularizers.source_needs(self.model)

    @property
    def evaluated(self) -> "Evaluated":
        """Returns what of the phase matters to its evaluation."""
        targets = replace(self.targets, weighted=False)
        return Evaluated(self.model, self.preprocessing, self.prefix, self.from_features, targets)

    @property
    def is_full_batch(self) -> bool:
        """Returns whether every step is over all images."""
        return self.optimizer.kind == LBFGS


@dataclass(frozen=True)
class Evaluated:
    """What is static in an evaluation, whatever the training; the first fields are those of `Phase`.

    `crops` are the parts of images larger than the network's that are evaluated: 'center', or 'ten'.
    """

    model: Network
    preprocessing: Preprocessing
    prefix: str | None
    from_features: bool
    targets: SingleLabel = SINGLE_LABEL
    crops: str = "center"
