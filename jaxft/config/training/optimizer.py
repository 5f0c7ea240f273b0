"""The section `training.optimizer`: which optimizer, and its numbers."""

from dataclasses import dataclass

from jaxft.config.fields import setting
from jaxft.config.sections import extended_by
from jaxft.core.errors import UserError
from jaxft.core.registries import OPTIMIZERS


@extended_by(OPTIMIZERS)
@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its numbers; rates of single layers are in `training.layers`."""

    name: str = setting(
        "sgd",
        "optimizer; sgd and adam add weight decay to the gradient, as in PyTorch; the others decouple it",
        registry=OPTIMIZERS,
    )
    learning_rate: float = setting(
        0.01, "peak learning rate of the head, and of every layer without a rate of its own", traced=True, above=0
    )
    effective_learning_rate: float | None = setting(
        None,
        "learning_rate / (1 - momentum) of sgd, given instead of learning_rate; the rates of the backbone and of the "
        "linear probe are then effective rates too",
        traced=True,
        above=0,
    )
    momentum: float = setting(
        0.9, "momentum of sgd; first decay rate of the other optimizers", traced=True, at_least=0, below=1
    )
    nesterov: bool = setting(False, "whether momentum is Nesterov's; lamb and lion do not have it")
    beta2: float = setting(
        0.999,
        "second decay rate of every optimizer but sgd; lion's usual value is 0.99",
        traced=True,
        at_least=0,
        below=1,
    )
    weight_decay: float = setting(
        0.0, "weight decay of kernels; biases and normalization layers have none", traced=True, at_least=0
    )
    clip_norm: float = setting(0.0, "largest global norm of the gradient; 0 does not clip", traced=True, at_least=0)
    sam_radius: float = setting(
        0.0,
        "radius of sharpness-aware minimization (SAM), with two gradients a step; 0 turns it off",
        traced=True,
        at_least=0,
    )
    ema_decay: float = setting(
        0.0,
        "decay of the moving average of the weights, which is then evaluated and kept; 0 turns it off",
        traced=True,
        at_least=0,
        below=1,
    )

    @property
    def given_rate(self) -> float:
        """Returns the head's rate as it is given: a learning rate, or an effective one."""
        return self.learning_rate if self.effective_learning_rate is None else self.effective_learning_rate

    @property
    def rate_scale(self) -> float:
        """Returns the factor from rates as they are given to learning rates."""
        return 1.0 if self.effective_learning_rate is None else 1 - self.momentum

    @property
    def effective_rate(self) -> float:
        """Returns the head's effective learning rate at the peak: that of sgd over 1 - momentum.

        A gradient moves the weights by this much in all (Li et al. 2020, "Rethinking the hyperparameters for
        fine-tuning", section 3.3). The other optimizers average gradients, which leaves their rate as it is.
        """
        rate = self.given_rate * self.rate_scale
        return rate / (1 - self.momentum) if self.name == "sgd" else rate

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        defaults = OptimizerConfig()
        if self.effective_learning_rate is not None and self.learning_rate != defaults.learning_rate:
            raise UserError(
                f"'{where}.effective_learning_rate' and '{where}.learning_rate' are both given; keep one of them."
            )
        if self.effective_learning_rate is not None and self.name != "sgd":
            raise UserError(
                f"config field '{where}.effective_learning_rate' is for 'sgd': the rate of {self.name!r} does "
                "not grow with its momentum; give learning_rate."
            )
        if self.nesterov and self.name in ("lamb", "lion"):
            raise UserError(f"config field '{where}.nesterov' is True, which {self.name!r} does not have.")
