"""The section `training.linear_probe`: training of only the head before fine-tuning."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import MAX_EPOCHS, setting


@dataclass(frozen=True)
class LinearProbeConfig:
    """A phase that trains only the head, before fine-tuning (LP-FT)."""

    epochs: float = setting(
        0.0,
        "epochs of the linear probe, which trains only the head before fine-tuning; 0 skips it",
        at_least=0,
        below=MAX_EPOCHS,
    )
    optimizer: Literal["same", "lbfgs"] = setting(
        "same",
        "optimizer of the linear probe: 'same' as in fine-tuning, or 'lbfgs', where each epoch is one iteration on "
        "all images",
    )
    learning_rate: float | None = setting(
        None, "peak learning rate of the linear probe; if None, optimizer.learning_rate", traced=True, above=0
    )
    weight_decay: float | None = setting(
        None,
        "weight decay of the kernel of the head in the linear probe; if None, optimizer.weight_decay",
        traced=True,
        at_least=0,
    )
