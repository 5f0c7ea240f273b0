"""The section `training.layers`: which layers train, and at which rates."""

import itertools
from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import LayerRate, setting
from jaxft.core.errors import UserError


@dataclass(frozen=True)
class LayersConfig:
    """Which layers train, and how fast each of them."""

    tune: Literal["all", "head", "bias", "batch_norm", "last_blocks", "lora"] = setting(
        "all", "parameters below the head that train, besides new blocks of a grown network; all others are frozen"
    )
    tuned_blocks: int | str = setting(
        1, "with tune 'last_blocks', the number of blocks that train, or the lowest block that trains", at_least=1
    )
    backbone_learning_rate: LayerRate | None = setting(
        None,
        "peak learning rate of every layer below the head, or 'frozen'; if None, that of the head",
        traced=True,
        above=0,
    )
    rates: tuple[tuple[str, LayerRate], ...] = setting(
        (),
        "ordered rules (pattern of parameter names, factor of the learning rate or 'frozen'); the first that matches "
        "wins, ahead of the rates of head and backbone",
        traced=True,
        above=0,
    )
    decay: float = setting(
        1.0,
        "factor of the learning rate from each block to the one below it, from the head down (layer-wise decay)",
        traced=True,
        above=0,
        at_most=1,
    )
    unfreeze_epochs: tuple[float, ...] = setting(
        (),
        "gradual unfreezing: epochs after which the next stage below the head starts to train; the last unfreezes all",
        above=0,
    )
    lora_rank: int = setting(4, "with tune 'lora', rank of the low-rank update of each kernel", at_least=1)
    lora_alpha: float = setting(
        4.0, "with tune 'lora', the low-rank update is multiplied by lora_alpha / lora_rank", traced=True, above=0
    )

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        moments = self.unfreeze_epochs
        if any(later <= earlier for earlier, later in itertools.pairwise(moments)):
            raise UserError(
                f"config field '{where}.unfreeze_epochs' is {list(moments)}; each must be after the one before."
            )
