"""The section `training.initialization`: the weights from which training starts."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import setting
from jaxft.core.errors import UserError


@dataclass(frozen=True)
class InitializationConfig:
    """The weights from which training starts."""

    start: Literal["pretrained", "random", "mean_var"] = setting(
        "pretrained",
        "initial weights below the head: pretrained; random; or random with the mean and deviation of each "
        "pretrained leaf",
    )
    transferred_blocks: int | str | None = setting(
        None,
        "transfer depth: the number of blocks, from the first on, that are pretrained, or the last such block; "
        "blocks above are random, or drawn with the mean and variance of each pretrained leaf; if None, all are "
        "pretrained",
        at_least=1,
    )
    transferred: Literal["tuned", "frozen"] = setting("tuned", "whether the pretrained blocks train")
    head: Literal["lecun", "zeros", "class_means"] = setting(
        "lecun",
        "initial weights of the new head: random (LeCun), zeros, or the mean direction of each class in feature space",
    )
    grow: Literal["none", "wider", "deeper"] = setting(
        "none", "new units beside the last stage, or a new layer above it, scaled to the pretrained ones"
    )
    grown_features: int = setting(64, "number of new units of a grown network", at_least=1)

    @property
    def transfers(self) -> bool:
        """Returns whether any block is pretrained."""
        return self.start == "pretrained" or self.transferred_blocks is not None

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        if self.transferred_blocks is not None and self.start == "random":
            raise UserError(
                f"config field '{where}.transferred_blocks' is {self.transferred_blocks!r}, but '{where}.start' is "
                "'random', which copies nothing; give start 'pretrained' (the blocks above are random) or 'mean_var'."
            )
        if self.transferred == "frozen" and (self.start == "random" or not self.transfers):
            raise UserError(
                f"config field '{where}.transferred' is 'frozen', but with start {self.start!r} nothing is copied; "
                f"give '{where}.transferred_blocks'."
            )
