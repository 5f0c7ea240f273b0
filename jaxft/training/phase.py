"""The static parts of a phase of training and of an evaluation: everything that shapes their compiled programs."""

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
    """The static part of a phase of training. Each phase has one compiled training program.

    Attributes:
      model: the network.
      preprocessing: the preprocessing of its images.
      optimizer: the static part of the optimizer.
      prefix: the last block of the frozen prefix, which runs without a gradient and with frozen statistics; None if the
        first block trains.
      tracked: the batch-norm statistics that training updates.
      batch_size: images per step; with L-BFGS, all images and views.
      augmentations: random augmentations of single images.
      views: number of fixed views of each image (`jaxft.data.augmentation.augment.view`); 0 without fixed views.
      from_features: whether the inputs are outputs of the frozen prefix, not images.
      mixes: the active methods that mix pairs of images, of 'mixup' and 'cutmix' (`jaxft.data.augmentation.mixing`).
      targets: the kind of labels, with loss and accuracy.
      interval: steps [first, end) of the schedule; if None, all steps.
      num_micro_batches: number of micro-batches in a batch.
      sharpness: whether the step uses the gradient of SAM.
      averaged: whether a moving average of the weights is evaluated and saved.
      regularizers: the regularizers that act in the phase.
      virtual_batch_size: images in a group that batch norm normalizes separately; if None, the whole batch.
      recalibrates: whether the tracked statistics are recomputed at the end.
      remat: whether only the inputs of blocks are stored, and the backward pass recomputes the activations in blocks.
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
        """Returns the names of the trainable leaves."""
        return tuple(name for name, _ in self.optimizer.groups)

    @property
    def num_steps(self) -> int:
        """Returns the number of steps of the phase."""
        return self.optimizer.schedule.num_steps if self.interval is None else self.interval[1] - self.interval[0]

    @property
    def first_step(self) -> int:
        """Returns the step of the schedule at which the phase starts; if not 0, the phase continues another one."""
        return 0 if self.interval is None else self.interval[0]

    @property
    def augments_images(self) -> bool:
        """Returns whether images are augmented or mixed."""
        return not self.augmentations.is_empty or bool(self.mixes)

    @property
    def can_cache_prefix(self) -> bool:
        """Returns whether outputs of the frozen prefix can be cached, because they are the same in every epoch."""
        return self.prefix is not None and (self.views > 0 or not self.augments_images)

    @property
    def head_only(self) -> bool:
        """Returns whether the inputs are cached features, so that a step computes only the head."""
        return self.from_features and self.prefix in (self.model.feature_block, self.model.head)

    @property
    def can_train_on_features(self) -> bool:
        """Returns whether steps need to compute only the head if features are cached; False for L-BFGS."""
        is_head_only = self.prefix in (self.model.feature_block, self.model.head)
        return self.can_cache_prefix and is_head_only and not self.is_full_batch

    @property
    def source_needs(self) -> SourceNeeds:
        """Returns the arrays of the source that the regularizers need."""
        return self.regularizers.source_needs(self.model)

    @property
    def eval_spec(self) -> "EvalSpec":
        """Returns the static part of an evaluation in this phase."""
        targets = replace(self.targets, weighted=False)
        return EvalSpec(self.model, self.preprocessing, self.prefix, self.from_features, targets)

    @property
    def is_full_batch(self) -> bool:
        """Returns whether each step uses all images."""
        return self.optimizer.kind == LBFGS


@dataclass(frozen=True)
class EvalSpec:
    """The static part of an evaluation; it is equal for phases that differ only in training.

    Attributes:
      model, preprocessing, prefix, from_features, targets: as in `Phase`.
      crops: crops of images that are larger than the input of the network: 'center' or 'ten'.
    """

    model: Network
    preprocessing: Preprocessing
    prefix: str | None
    from_features: bool
    targets: SingleLabel = SINGLE_LABEL
    crops: str = "center"
