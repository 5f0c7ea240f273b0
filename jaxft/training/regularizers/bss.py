"""Batch spectral shrinkage (Chen et al. 2019): a penalty on small singular values of a batch's features."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config import Training
from jaxft.config.training.regularization import BSSConfig
from jaxft.core.registries import REGULARIZERS
from jaxft.models import Network
from jaxft.training.pooled import pooled
from jaxft.training.regularizers.base import Regularizer, Scope, Term
from jaxft.training.regularizers.context import StepContext


class BSS(Regularizer):
    """A penalty on the smallest singular values of a batch's features. Its static part is their number."""

    def options(self, training: Training) -> BSSConfig | None:
        config = training.regularization.bss
        return config if config.strength else None

    def static(self, options: BSSConfig, scope: Scope) -> int | None:
        return options.count if scope.model.feature_block in scope.live else None

    def numbers(self, options: BSSConfig) -> dict[str, Any]:
        return {"strength": jnp.float32(options.strength)}

    def outputs(self, static: int, model: Network) -> tuple[str, ...]:
        return (model.feature_block,)

    def penalty(self, term: Term, context: StepContext) -> jax.Array:
        features = pooled(context.forward.outputs[context.model.feature_block])
        return term.numbers["strength"] * smallest_singular_values(features, term.static)


def smallest_singular_values(features: jax.Array, count: int) -> jax.Array:
    """Returns the sum of the squares of the `count` smallest singular values of `features: [n, d]`.

    BSS (Chen et al. 2019, section 4); there are min(n, d) of them. Eigenvalues of the Gram matrix would lose the small
    ones in float32.
    """
    return jnp.square(jnp.linalg.svd(features, compute_uv=False)[-count:]).sum()


REGULARIZERS.register("bss", BSS(), help="penalty on the smallest singular values of a batch's features")
