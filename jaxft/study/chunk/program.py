"""What is static in a whole trial: its phases, when it is evaluated, how its weights are selected."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxft.data.batches import epoch_ends
from jaxft.training.phase import Phase


@dataclass(frozen=True)
class Program:
    """What is static in a whole trial: its phases, after which steps of each it is evaluated, what is selected.

    `test_crops` are what is looked at of test images (`train.Evaluated`); of those to select on it is the center.
    """

    phases: tuple[Phase, ...]
    epoch_ends: tuple[tuple[int, ...], ...]
    select: str
    eval_batch_size: int
    num_train: int
    test_crops: str = "center"

    @property
    def epochs(self) -> tuple[float, ...]:
        """Returns after how many passes over the training images each evaluation is."""
        epochs, before = [], 0.0
        for phase, ends in zip(self.phases, self.epoch_ends):
            a_step = 0.0 if phase.is_full_batch else phase.batch_size / self.num_train  # a fit to all images is no pass
            epochs += [before + end * a_step for end in ends]
            before = epochs[-1]
        return tuple(round(epoch, 6) for epoch in epochs)

    @property
    def num_epochs(self) -> int:
        """Returns the number of evaluations on the validation images."""
        return self.epochs_before(len(self.phases))

    def epochs_before(self, phase: int) -> int:
        """Returns how many evaluations the phases before the one of a number have."""
        return sum(len(ends) for ends in self.epoch_ends[:phase])

    def steps_before(self, phase: int) -> int:
        """Returns how many steps the phases before the one of a number have."""
        return sum(phase.num_steps for phase in self.phases[:phase])


def make_program(
    phases: Sequence[Phase], select: str, eval_batch_size: int, num_train: int, test_crops: str = "center"
) -> Program:
    """Returns the program of phases that are evaluated after each pass, or at the end where every step is over all."""
    ends = [[p.num_steps] if p.is_full_batch else epoch_ends(num_train, p.num_steps, p.batch_size) for p in phases]
    return Program(tuple(phases), tuple(map(tuple, ends)), select, eval_batch_size, num_train, test_crops)
