"""The section `training.regularization`: the sections of all regularizers, each declared in its regularizer's file."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxft.config.sections import extended_by
from jaxft.core.errors import UserError
from jaxft.core.registries import REGULARIZERS

if TYPE_CHECKING:
    from jaxft.config.training.training import Training


@dataclass(frozen=True)
class RegularizerConfig:
    """The base of a regularizer's section of the config.

    Attributes:
      acting: the fields that turn the regularizer on where they are neither 0 nor empty.
      towards_source: those of them that need the weights of a source.
      compares_layers: whether it compares layers of the network with the same ones of the source.
    """

    acting: ClassVar[tuple[str, ...]] = ("strength",)
    towards_source: ClassVar[tuple[str, ...]] = ()
    compares_layers: ClassVar[bool] = False

    @property
    def acting_field(self) -> str | None:
        """Returns the first field that turns the regularizer on; None if it is off."""
        return next((name for name in self.acting if getattr(self, name)), None)

    def check_training(self, training: "Training", where: str, dotted: str) -> None:
        """Raises a `UserError` if the section contradicts another one of the training.

        Args:
          training: the whole section `training`.
          where: its dotted name, for messages.
          dotted: the dotted name of this section.
        """
        acting, initialization = self.acting_field, training.initialization
        if acting is None:
            return
        pulling = next((name for name in self.towards_source if getattr(self, name)), None)
        if pulling is not None and initialization.start == "random":
            raise UserError(
                f"config field '{dotted}.{pulling}' pulls towards a source, but '{where}.initialization.start' is "
                "'random'; leave it out."
            )
        if self.compares_layers and initialization.grow != "none":
            raise UserError(
                f"config field '{dotted}.{acting}' compares the network's layers with the source's, but "
                f"'{where}.initialization.grow' gives it others; leave one of them out."
            )
        if not training.fine_tunes:
            raise UserError(
                f"config field '{dotted}.{acting}' acts in fine-tuning, after the linear probe, but "
                f"'{where}.schedule.epochs' is 0; give epochs, or leave it out."
            )


@extended_by(REGULARIZERS)
@dataclass(frozen=True)
class RegularizationConfig:
    """Terms of the loss and noise; a strength or rate of 0 turns each off."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Returns the section of a regularizer."""
