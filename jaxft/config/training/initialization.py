"""The section `training.initialization`: the weights from which training starts."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import MAX_UNITS, setting
from jaxft.core.errors import UserError
from jaxft.core.text import shown


@dataclass(frozen=True)
class InitializationConfig:
    """The weights from which training starts."""

    start: Literal["pretrained", "random", "mean_var"] = setting(
        "pretrained",
        "initial weights below the head: pretrained; random; or random with the mean and variance of each pretrained "
        "leaf ('mean_var')",
    )
    transferred_blocks: int | str | None = setting(
        None,
        "transfer depth: number of lowest blocks that are pretrained, or name of the last such block; the blocks above "
        "are reinitialized, at random or as in start 'mean_var'; if None, start applies to all blocks",
        at_least=1,
    )
    transferred: Literal["tuned", "frozen"] = setting("tuned", "whether the pretrained blocks are tuned or frozen")
    head: Literal["lecun", "zeros", "class_means"] = setting(
        "lecun",
        "initial weights of the new head: random (LeCun), zeros, or the mean direction of the features of each class",
    )
    grow: Literal["none", "wider", "deeper"] = setting(
        "none",
        "growth of the network (Wang et al. 2017): none, new units in parallel to the last stage, or a new layer above "
        "it, scaled to the pretrained activations",
    )
    grown_features: int = setting(64, "with grow, number of new units", at_least=1, at_most=MAX_UNITS)

    @property
    def transfers(self) -> bool:
        """Returns whether any block is pretrained."""
        return self.start == "pretrained" or self.transferred_blocks is not None

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        if self.transferred_blocks is not None and self.start == "random":
            raise UserError(
                f"config field '{where}.transferred_blocks' is {shown(self.transferred_blocks)}, but '{where}.start' "
                "is 'random', so no block is pretrained; set start to 'pretrained' (the blocks above are random) or "
                "'mean_var'."
            )
        if self.transferred == "frozen" and (self.start == "random" or not self.transfers):
            raise UserError(
                f"config field '{where}.transferred' is 'frozen', but with start {self.start!r} no block is "
                f"pretrained; give '{where}.transferred_blocks'."
            )
