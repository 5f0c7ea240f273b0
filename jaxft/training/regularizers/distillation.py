"""Distillation from the source (LwF; Li & Hoiem 2016): keeps the outputs of the source head on the target images."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config.fields import setting
from jaxft.config.training.regularization import RegularizerConfig
from jaxft.core.paths import unflatten
from jaxft.core.registries import REGULARIZERS
from jaxft.models import Network
from jaxft.training.regularizers.base import Regularizer, Scope, Term
from jaxft.training.regularizers.context import StepContext
from jaxft.training.source import SourceNeeds, source_network
from jaxft.training.targets import Targets


@dataclass(frozen=True)
class DistillationConfig(RegularizerConfig):
    """Distillation from the source (LwF; Li & Hoiem 2016): keeps the outputs of the source head on target images."""

    strength: float = setting(
        0.0, "distillation (LwF): weight of the loss to the outputs of the source head", traced=True, at_least=0
    )
    temperature: float = setting(2.0, "distillation (LwF): temperature that divides the logits", traced=True, above=0)

    source_fields = ("strength",)
    compares_layers = True


class Distillation(Regularizer):
    """Cross-entropy to the outputs of the source head before training. The source head is frozen."""

    def static(self, options: DistillationConfig, scope: Scope) -> bool | None:
        return True if scope.model.feature_block in scope.blocks_above_prefix else None

    def numbers(self, options: DistillationConfig) -> dict[str, Any]:
        return {"strength": jnp.float32(options.strength), "temperature": jnp.float32(options.temperature)}

    def outputs(self, static: bool, model: Network) -> tuple[str, ...]:
        return (model.feature_block,)

    def source_needs(self, static: bool, model: Network) -> SourceNeeds:
        return SourceNeeds(logits=True)

    def penalty(self, term: Term, context: StepContext) -> jax.Array:
        model, source = context.model, context.source
        head = {name: leaf for name, leaf in source.params.items() if model.in_head(name)}
        features = context.forward.outputs[model.feature_block]
        logits = source_network(model, head).apply({"params": unflatten(head)}, features, after=model.feature_block)

        def losses(targets: Targets) -> jax.Array:
            recorded = source.logits[source.logit_rows[targets.rows]]
            return distillation_loss(logits, recorded, term.numbers["temperature"])

        return term.numbers["strength"] * context.targets.mean(losses)


def distillation_loss(logits: jax.Array, recorded: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Returns [n], the cross-entropy of `logits: [n, classes]` to `recorded: [n, classes]`, the logits before training.

    The probabilities of both are softmax(logits / temperature), which equals the probabilities to the power
    1 / temperature, normalized (Li & Hoiem 2016, section 3; there, the temperature is 2).
    """
    recorded_probabilities = jax.nn.softmax(recorded / temperature)
    return -(recorded_probabilities * jax.nn.log_softmax(logits / temperature)).sum(-1)


REGULARIZERS.register(
    "distillation",
    Distillation(),
    section=DistillationConfig,
    help="keeps the outputs of the source head on the target images",
)
