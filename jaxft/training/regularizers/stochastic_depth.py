"""Stochastic depth (Huang et al. 2016): residual branches are skipped at random."""

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

STREAM = 5  # of the step's key


@dataclass(frozen=True)
class StochasticDepthConfig(RegularizerConfig):
    """Stochastic depth (Huang et al. 2016)."""

    rate: float = setting(
        0.0,
        "stochastic depth: probability of skipping the last residual block; it falls linearly towards the first",
        traced=True,
        at_least=0,
        below=1,
    )

    acting = ("rate",)


class StochasticDepth(Regularizer):
    """Residual branches that a batch may skip. Its static part are their blocks."""

    is_random = True

    def static(self, options: StochasticDepthConfig, scope: Scope) -> tuple[str, ...] | None:
        model = scope.model
        if not model.residual_blocks:
            raise UserError(
                f"'training.regularization.stochastic_depth.rate' is {options.rate:g}, but {model.architecture} has no "
                "residual blocks that could be skipped; leave it out."
            )
        return (
            tuple(b for b in model.residual_blocks if block_of(f"{b}/", model.blocks) in scope.blocks_above_prefix)
            or None
        )

    def numbers(self, options: StochasticDepthConfig) -> dict[str, Any]:
        return {"rate": jnp.float32(options.rate)}

    def add_noise(self, noise: Noise, term: Term, model: Network, noise_key: NoiseKey) -> Noise:
        key = jax.random.fold_in(noise_key.key, STREAM)
        return noise._replace(branch_factors=branch_factors(key, model, term.static, term.numbers["rate"]))


def branch_factors(
    key: jax.Array, model: Network, blocks: Sequence[str], rate: jax.Array | float
) -> dict[str, jax.Array]:
    """Returns {block: factor of its residual branch} for a batch: 0, or 1 / p.

    The branch of the l-th of a network's L blocks is kept with probability p_l = 1 - l/L rate (stochastic depth; Huang
    et al. 2016, equation 4, where `rate` is 1 - p_L). There branches are multiplied by p_l in evaluation; here they are
    divided by it in training, so that pretrained and exported networks need no change. A skipped branch is computed all
    the same, and its batch-norm statistics move.
    """
    depth = {block: number for number, block in enumerate(model.residual_blocks, 1)}
    factors = {}
    for block in blocks:
        keep_probability = 1 - depth[block] / len(depth) * rate
        is_kept = jax.random.uniform(jax.random.fold_in(key, depth[block]), dtype=jnp.float32) < keep_probability
        factors[block] = jnp.where(is_kept, 1 / keep_probability, 0.0)
    return factors


REGULARIZERS.register(
    "stochastic_depth", StochasticDepth(), section=StochasticDepthConfig, help="residual branches are skipped at random"
)
