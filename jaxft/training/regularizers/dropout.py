"""Dropout (Srivastava et al. 2014) of the inputs of the head."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config.fields import setting
from jaxft.config.training.regularization import RegularizerConfig
from jaxft.core.registries import REGULARIZERS
from jaxft.models import Network
from jaxft.training.noise import Dropout, Noise, NoiseKey
from jaxft.training.regularizers.base import Regularizer, Scope, Term

STREAM = 4  # random stream; folded into the key of the step


@dataclass(frozen=True)
class DropoutConfig(RegularizerConfig):
    """Dropout (Srivastava et al. 2014) of the inputs of the head."""

    rate: float = setting(
        0.0,
        "dropout: fraction of the inputs of the head that is set to zero in training",
        traced=True,
        at_least=0,
        below=1,
    )

    activated_by = ("rate",)


class HeadDropout(Regularizer):
    """Dropout of the inputs of the head."""

    is_random = True

    def static(self, options: DropoutConfig, scope: Scope) -> bool:
        return True

    def numbers(self, options: DropoutConfig) -> dict[str, Any]:
        return {"rate": jnp.float32(options.rate)}

    def add_noise(self, noise: Noise, term: Term, model: Network, noise_key: NoiseKey) -> Noise:
        key = jax.random.fold_in(noise_key.key, STREAM)
        return noise._replace(dropout=Dropout(key, term.numbers["rate"], noise_key.positions))


REGULARIZERS.register(
    "dropout", HeadDropout(), section=DropoutConfig, help="sets a fraction of the inputs of the head to zero"
)
