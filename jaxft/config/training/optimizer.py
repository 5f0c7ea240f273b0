"""The section `training.optimizer`: the optimizer and its hyperparameters."""

from dataclasses import dataclass

from jaxft.config.fields import setting
from jaxft.config.sections import extended_by
from jaxft.core.errors import UserError
from jaxft.core.registries import OPTIMIZERS


@extended_by(OPTIMIZERS)
@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its hyperparameters. Learning rates of single layers are in `training.layers`."""

    name: str = setting(
        "sgd",
        "optimizer; 'sgd' and 'adam' add weight decay to the gradient, as in PyTorch, all others use decoupled weight "
        "decay",
        registry=OPTIMIZERS,
    )
    learning_rate: float = setting(
        0.01,
        "peak learning rate of the head, and of all layers without another learning rate",
        traced=True,
        above=0,
    )
    effective_learning_rate: float | None = setting(
        None,
        "effective learning rate of sgd, learning_rate / (1 - momentum), given instead of learning_rate; the learning "
        "rates of the backbone and the linear probe are then effective too",
        traced=True,
        above=0,
    )
    momentum: float = setting(
        0.9, "momentum of sgd; first decay rate of the other optimizers", traced=True, at_least=0, below=1
    )
    nesterov: bool = setting(False, "whether to use Nesterov momentum; not available for lamb and lion")
    beta2: float = setting(
        0.999,
        "second decay rate of all optimizers except sgd; 0.99 is common for lion",
        traced=True,
        at_least=0,
        below=1,
    )
    weight_decay: float = setting(
        0.0, "weight decay of kernels; biases and normalization layers do not decay", traced=True, at_least=0
    )
    clip_norm: float = setting(
        0.0, "maximum global norm of the gradient; 0 turns clipping off", traced=True, at_least=0
    )
    sam_radius: float = setting(
        0.0,
        "radius rho of sharpness-aware minimization (SAM), with two gradients per step; 0 turns it off",
        traced=True,
        at_least=0,
    )
    ema_decay: float = setting(
        0.0,
        "decay per step of the exponential moving average of the weights, which is evaluated and kept instead of the "
        "weights; 0 turns it off",
        traced=True,
        at_least=0,
        below=1,
    )

    @property
    def configured_rate(self) -> float:
        """Returns `effective_learning_rate`; if None, `learning_rate`."""
        return self.learning_rate if self.effective_learning_rate is None else self.effective_learning_rate

    @property
    def rate_scale(self) -> float:
        """Returns the factor that converts learning rates of the config to learning rates of the optimizer."""
        return 1.0 if self.effective_learning_rate is None else 1 - self.momentum

    @property
    def effective_rate(self) -> float:
        """Returns the effective peak learning rate of the head: for sgd, the learning rate / (1 - momentum).

        Over all steps, sgd moves the weights by the effective learning rate times the gradient (Li et al. 2020,
        "Rethinking the hyperparameters for fine-tuning", section 3.3). The other optimizers average gradients, so
        their effective learning rate is the learning rate.
        """
        rate = self.configured_rate * self.rate_scale
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
                f"config field '{where}.effective_learning_rate' is only for 'sgd', because the momentum of "
                f"{self.name!r} does not scale its steps; give '{where}.learning_rate'."
            )
        if self.nesterov and self.name in ("lamb", "lion"):
            raise UserError(f"config field '{where}.nesterov' is True, but {self.name!r} has no Nesterov momentum.")
