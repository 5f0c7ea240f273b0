"""Batch spectral shrinkage (Chen et al. 2019): a penalty on small singular values of the features of a batch."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config import Training
from jaxft.config.fields import MAX_UNITS, setting
from jaxft.config.training.regularization import RegularizerConfig
from jaxft.core.errors import UserError
from jaxft.core.registries import REGULARIZERS
from jaxft.models import Network
from jaxft.training.pooled import pooled
from jaxft.training.regularizers.base import Regularizer, Scope, Term
from jaxft.training.regularizers.context import StepContext


@dataclass(frozen=True)
class BSSConfig(RegularizerConfig):
    """Batch spectral shrinkage (Chen et al. 2019): a penalty on small singular values of the features of a batch."""

    strength: float = setting(
        0.0, "BSS: penalty on the smallest singular values of the features of a batch", traced=True, at_least=0
    )
    count: int = setting(1, "BSS: number of singular values that are penalized", at_least=1, at_most=MAX_UNITS)

    def check_training(self, training: Training, where: str, dotted: str) -> None:
        """Checks that a micro-batch has enough singular values.

        Raises:
          UserError: the penalty uses more singular values than a micro-batch has images.
        """
        super().check_training(training, where, dotted)
        size = training.batches.micro_batch_size
        if self.strength and self.count > size:
            raise UserError(
                f"config field '{dotted}.count' is {self.count}, but the features of a micro-batch of {size} images "
                "have fewer singular values; use a smaller count."
            )


class BSS(Regularizer):
    """A penalty on the smallest singular values of the features of a batch. The static part is their number."""

    def static(self, options: BSSConfig, scope: Scope) -> int | None:
        return options.count if scope.model.feature_block in scope.blocks_above_prefix else None

    def numbers(self, options: BSSConfig) -> dict[str, Any]:
        return {"strength": jnp.float32(options.strength)}

    def outputs(self, static: int, model: Network) -> tuple[str, ...]:
        return (model.feature_block,)

    def penalty(self, term: Term, context: StepContext) -> jax.Array:
        features = pooled(context.forward.outputs[context.model.feature_block])
        return term.numbers["strength"] * smallest_singular_values(features, term.static)


def smallest_singular_values(features: jax.Array, count: int) -> jax.Array:
    """Returns the sum of the squares of the `count` smallest singular values of `features: [n, d]`, a scalar.

    BSS (Chen et al. 2019, section 4). There are min(n, d) singular values. The code computes them directly, because the
    eigenvalues of the Gram matrix lose small singular values in float32.
    """
    return jnp.square(jnp.linalg.svd(features, compute_uv=False)[-count:]).sum()


REGULARIZERS.register(
    "bss", BSS(), section=BSSConfig, help="penalty on the smallest singular values of the features of a batch"
)
