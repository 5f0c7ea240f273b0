"""The section `training.regularization`. The file of each regularizer declares its section."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxft.config.sections import extended_by
from jaxft.core.errors import UserError
from jaxft.core.registries import REGULARIZERS

if TYPE_CHECKING:
    from jaxft.config.training.training import Training


@dataclass(frozen=True)
class RegularizerConfig:
    """The base class of the section of a regularizer.

    Attributes:
      activated_by: names of the fields that turn the regularizer on if they are neither 0 nor empty.
      source_fields: names of the fields of `activated_by` that need source weights.
      compares_layers: whether the regularizer compares layers of the network with the same layers of the source.
    """

    activated_by: ClassVar[tuple[str, ...]] = ("strength",)
    source_fields: ClassVar[tuple[str, ...]] = ()
    compares_layers: ClassVar[bool] = False

    @property
    def active_field(self) -> str | None:
        """Returns the name of the first field that turns the regularizer on; None if it is off."""
        return next((name for name in self.activated_by if getattr(self, name)), None)

    def check_training(self, training: "Training", where: str, dotted: str) -> None:
        """Raises a `UserError` if this section contradicts another section of `training`.

        Args:
          training: the section `training`.
          where: the dotted name of `training`, for messages.
          dotted: the dotted name of this section, for messages.
        """
        active_field, initialization = self.active_field, training.initialization
        if active_field is None:
            return
        source_field = next((name for name in self.source_fields if getattr(self, name)), None)
        if source_field is not None and initialization.start == "random":
            raise UserError(
                f"config field '{dotted}.{source_field}' needs source weights, but '{where}.initialization.start' is "
                f"'random'; leave '{dotted}.{source_field}' out, or set start to 'pretrained'."
            )
        if self.compares_layers and initialization.grow != "none":
            raise UserError(
                f"config field '{dotted}.{active_field}' compares the layers of network and source, but "
                f"'{where}.initialization.grow' gives the network other layers; leave one of them out."
            )
        if not training.fine_tunes:
            raise UserError(
                f"config field '{dotted}.{active_field}' acts only in fine-tuning after the linear probe, but "
                f"'{where}.schedule.epochs' is 0; set epochs, or leave '{dotted}.{active_field}' out."
            )


@extended_by(REGULARIZERS)
@dataclass(frozen=True)
class RegularizationConfig:
    """Loss terms and noise. A strength or rate of 0 turns a regularizer off."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Returns the section of a regularizer."""
