"""The section `source.preprocessing`: values that replace the preprocessing of the weight file."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from jaxft.config.fields import MAX_SIZE_PX, setting
from jaxft.core.errors import UserError

Range = Literal["0..1", "0..255", "-1..1"]
ChannelOrder = Literal["rgb", "bgr"]
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class PreprocessingConfig:
    """The preprocessing that the source weights expect. A value that is not given comes from the weight file.

    If the file does not record its preprocessing, it comes from the list of published files, or else is the default of
    the network.
    """

    mean: Channels | None = setting(
        None,
        "mean of each channel that the source weights expect, in units of 'range' and in the order of the channels",
    )
    std: Channels | None = setting(
        None, "standard deviation of each channel that the source weights expect, in the units and order of 'mean'"
    )
    size_px: int | None = setting(
        None, "side of the images that the source weights expect, in pixels", at_least=1, at_most=MAX_SIZE_PX
    )
    range: Range | None = setting(
        None, "values of a black and a white pixel before the mean is subtracted, the units of 'mean' and 'std'"
    )
    channel_order: ChannelOrder | None = setting(None, "order of the channels that the source weights expect")

    def check(self, where: str) -> None:
        """Raises a `UserError` if a value is out of bounds, or the units are given without the values.

        Whether mean and standard deviation fit their range can depend on the weight file, so
        `jaxft.weights.metadata` checks it.
        """
        dotted = where or "preprocessing"
        if self.std is not None and min(self.std) <= 0:
            raise UserError(f"'{dotted}.std' is {self.std}; a standard deviation must be above 0.")
        if self.range is not None and (self.mean is None or self.std is None):
            raise UserError(
                f"'{dotted}.range' is {self.range!r}, the units of mean and std; give '{dotted}.mean' and "
                f"'{dotted}.std' too (0,0,0 and 1,1,1 if images are only scaled to this range)."
            )

    def given(self) -> dict[str, Any]:
        """Returns the values that are not None, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}
