"""The static part of a trial: its phases, its evaluations, and the selection of its weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxft.data.batches import epoch_ends
from jaxft.training.phase import Phase


@dataclass(frozen=True)
class Program:
    """The static part of a trial. Trials with equal programs share compiled programs.

    Attributes:
      phases: the phases of training.
      epoch_ends: for each phase, the numbers of steps after which the trial is evaluated.
      select: `training.selection.weights`.
      eval_batch_size: most images of an evaluation batch; 0 for the default of the device.
      num_train: number of training images.
      test_crops: 'center' or 'ten', the crops of a test image; validation always uses the center.
    """

    phases: tuple[Phase, ...]
    epoch_ends: tuple[tuple[int, ...], ...]
    select: str
    eval_batch_size: int
    num_train: int
    test_crops: str = "center"

    @property
    def epochs(self) -> tuple[float, ...]:
        """Returns the epochs of training before each evaluation, as floats: (0.5, 1.0, ...).

        Full-batch phases count zero epochs.
        """
        epochs, before = [], 0.0
        for phase, ends in zip(self.phases, self.epoch_ends):
            epochs_per_step = 0.0 if phase.is_full_batch else phase.batch_size / self.num_train
            epochs += [before + end * epochs_per_step for end in ends]
            before = epochs[-1]
        return tuple(round(epoch, 6) for epoch in epochs)

    @property
    def num_epochs(self) -> int:
        """Returns the number of evaluations on the validation images, over all phases."""
        return self.epochs_before(len(self.phases))

    def epochs_before(self, phase: int) -> int:
        """Returns the number of evaluations before a phase; phases are counted from 0."""
        return sum(len(ends) for ends in self.epoch_ends[:phase])

    def steps_before(self, phase: int) -> int:
        """Returns the number of steps before a phase; phases are counted from 0."""
        return sum(phase.num_steps for phase in self.phases[:phase])


def make_program(
    phases: Sequence[Phase], select: str, eval_batch_size: int, num_train: int, test_crops: str = "center"
) -> Program:
    """Returns the program of a trial, with an evaluation after each epoch and at the end of a full-batch phase.

    Args:
      phases: the phases of training.
      select: `training.selection.weights`.
      eval_batch_size: most images of an evaluation batch; 0 for the default of the device.
      num_train: number of training images.
      test_crops: 'center' or 'ten', the crops of a test image.
    """
    ends = [[p.num_steps] if p.is_full_batch else epoch_ends(num_train, p.num_steps, p.batch_size) for p in phases]
    return Program(tuple(phases), tuple(map(tuple, ends)), select, eval_batch_size, num_train, test_crops)
