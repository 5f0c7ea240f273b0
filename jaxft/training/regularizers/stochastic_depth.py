"""Stochastic depth (Huang et al. 2016): training skips residual branches at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config.fields import setting
from jaxft.config.training.regularization import RegularizerConfig
from jaxft.core.errors import UserError
from jaxft.core.registries import REGULARIZERS
from jaxft.models import Network, block_of
from jaxft.training.noise import Noise, NoiseKey
from jaxft.training.regularizers.base import Regularizer, Scope, Term

STREAM = 5  # random stream; folded into the key of the step


@dataclass(frozen=True)
class StochasticDepthConfig(RegularizerConfig):
    """Stochastic depth (Huang et al. 2016): training skips residual branches at random."""

    rate: float = setting(
        0.0,
        "stochastic depth: probability of skipping the branch of the last residual block; it decreases linearly toward "
        "the first block",
        traced=True,
        at_least=0,
        below=1,
    )

    activated_by = ("rate",)


class StochasticDepth(Regularizer):
    """Residual branches that a batch skips at random. The static part is their blocks."""

    is_random = True

    def static(self, options: StochasticDepthConfig, scope: Scope) -> tuple[str, ...] | None:
        model = scope.model
        if not model.residual_blocks:
            raise UserError(
                f"config field 'training.regularization.stochastic_depth.rate' is {options.rate:g}, but "
                f"{model.architecture} has no residual blocks; set it to 0."
            )
        above = scope.blocks_above_prefix
        return tuple(name for name in model.residual_blocks if block_of(f"{name}/", model.blocks) in above) or None

    def numbers(self, options: StochasticDepthConfig) -> dict[str, Any]:
        return {"rate": jnp.float32(options.rate)}

    def add_noise(self, noise: Noise, term: Term, model: Network, noise_key: NoiseKey) -> Noise:
        key = jax.random.fold_in(noise_key.key, STREAM)
        return noise._replace(branch_factors=branch_factors(key, model, term.static, term.numbers["rate"]))


def branch_factors(
    key: jax.Array, model: Network, blocks: Sequence[str], rate: jax.Array | float
) -> dict[str, jax.Array]:
    """Returns {block: factor of its residual branch, a float32 scalar} for a batch. The factor is 0 or 1 / p.

    The branch of residual block l of L is kept with probability p_l = 1 - l/L rate (stochastic depth; Huang et al.
    2016, equation 4, where `rate` is 1 - p_L). The authors multiply branches by p_l in evaluation. Here, training
    divides them by p_l, so pretrained and exported networks need no change. A skipped branch is computed anyway, and
    its batch-norm statistics are updated.

    Args:
      key: random key.
      model: the network.
      blocks: the residual blocks that training can skip.
      rate: scalar, the probability of skipping the branch of the last residual block.
    """
    depth = {block: number for number, block in enumerate(model.residual_blocks, 1)}
    factors = {}
    for block in blocks:
        keep_probability = 1 - depth[block] / len(depth) * rate
        is_kept = jax.random.uniform(jax.random.fold_in(key, depth[block]), dtype=jnp.float32) < keep_probability
        factors[block] = jnp.where(is_kept, 1 / keep_probability, 0.0)
    return factors


REGULARIZERS.register(
    "stochastic_depth", StochasticDepth(), section=StochasticDepthConfig, help="skips residual branches at random"
)
