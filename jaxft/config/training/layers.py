"""The section `training.layers`: the trained layers, and their learning rates."""

import itertools
from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import MAX_EPOCHS, MAX_UNITS, LayerRate, setting
from jaxft.core.errors import UserError
from jaxft.core.text import shown


@dataclass(frozen=True)
class LayersConfig:
    """The trained layers, and their learning rates."""

    tune: Literal["all", "head", "bias", "batch_norm", "last_blocks", "lora"] = setting(
        "all", "parameters below the head that train, in addition to new blocks of a grown network; others are frozen"
    )
    tuned_blocks: int | str = setting(
        1,
        "with tune 'last_blocks', number of blocks that train, or name of the lowest block that trains",
        at_least=1,
    )
    backbone_learning_rate: LayerRate | None = setting(
        None,
        "peak learning rate of all layers below the head, or 'frozen'; if None, the learning rate of the head",
        traced=True,
        above=0,
    )
    rates: tuple[tuple[str, LayerRate], ...] = setting(
        (),
        "ordered rules (RE2 regular expression for parameter names, factor of the learning rate or 'frozen'); the "
        "first match wins, ahead of the learning rates of the head and the backbone",
        traced=True,
        above=0,
    )
    decay: float = setting(
        1.0,
        "layer-wise decay: learning rate of a block, divided by the learning rate of the block above it",
        traced=True,
        above=0,
        at_most=1,
    )
    unfreeze_epochs: tuple[float, ...] = setting(
        (),
        "gradual unfreezing: each epoch of this list unfreezes one more stage below the head, the last unfreezes all",
        above=0,
        below=MAX_EPOCHS,
    )
    lora_rank: int = setting(4, "with tune 'lora', rank of the update of each kernel", at_least=1, at_most=MAX_UNITS)
    lora_alpha: float = setting(
        4.0, "with tune 'lora', the update of each kernel is multiplied by lora_alpha / lora_rank", traced=True, above=0
    )

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        epochs = self.unfreeze_epochs
        if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
            raise UserError(
                f"config field '{where}.unfreeze_epochs' is {shown(list(epochs))}; the epochs must increase."
            )
