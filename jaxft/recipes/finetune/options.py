"""The options of `finetune`, and the command line that sets them."""

import shlex
import typing
from dataclasses import dataclass, field
from typing import Literal

from jaxft.config import PreprocessingConfig
from jaxft.core.errors import UserError

Train = Literal["auto", "head", "top", "all"]
DEPTHS = typing.get_args(Train)


@dataclass(frozen=True)
class FinetuneOptions:
    """The options of `jaxft.finetune`, where they are described.

    Raises:
      UserError: an option is out of bounds.
    """

    weights: str
    data: str
    out: str
    model: str | None = None
    seeds: int = 3
    train: Train = "auto"
    size_px: int | None = None
    state_dict: str | None = None
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"--seeds is {self.seeds}; it must be 1 or more.")
        if self.train not in DEPTHS:
            raise UserError(f"--train is {self.train!r}; allowed: {', '.join(DEPTHS)}.")
        if self.size_px is not None and self.size_px < 1:
            raise UserError(f"--size-px is {self.size_px}; it must be 1 or more.")

    def command(self) -> str:
        """Returns the command line with these options."""
        options = {
            "weights": self.weights,
            "data": self.data,
            "out": self.out,
            "seeds": self.seeds,
            "train": self.train,
            "model": self.model,
            "size-px": self.size_px,
            "state-dict": self.state_dict,
            **{name.replace("_", "-"): value for name, value in self.preprocessing.given().items()},
        }
        words = ["jaxft", "finetune"]
        for name, value in options.items():
            if isinstance(value, tuple):
                value = ",".join(map(str, value))
            if value is not None:
                words += [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", str(value)]
        return shlex.join(words)
