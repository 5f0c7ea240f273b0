"""L2-SP (Li, Grandvalet & Davoine 2018): an L2 penalty on the distance from the pretrained weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config.fields import setting
from jaxft.config.training.regularization import RegularizerConfig
from jaxft.core.registries import REGULARIZERS
from jaxft.core.rules import Rule, match_rules
from jaxft.models import Network
from jaxft.models.growth import NEW_UNITS
from jaxft.training.adapters import is_adapter, kernel_of
from jaxft.training.regularizers.base import Regularizer, Scope, Term
from jaxft.training.regularizers.context import StepContext
from jaxft.training.source import SourceNeeds

REST = ".*"  # pattern of the parameters that no rule of the config matches


@dataclass(frozen=True)
class L2SPConfig(RegularizerConfig):
    """L2-SP (Li, Grandvalet & Davoine 2018): an L2 penalty on the distance from the pretrained weights."""

    strength: float = setting(
        0.0,
        "L2-SP: penalty on the distance of trained parameters below the head from the source",
        traced=True,
        at_least=0,
    )
    rules: tuple[tuple[str, float], ...] = setting(
        (),
        "L2-SP: ordered rules (pattern of parameter names, strength); the first that matches replaces strength",
        traced=True,
        at_least=0,
    )
    head: float = setting(0.0, "L2-SP: L2 penalty on the head, which is not in the source", traced=True, at_least=0)

    activated_by = ("strength", "rules", "head")
    source_fields = ("strength", "rules")


@dataclass(frozen=True)
class Pull:
    """The penalized parameters of a phase.

    Attributes:
      leaves: (parameter with a penalty on its distance from the source, pattern of its strength).
      head: whether there is a penalty on the norm of the head.
    """

    leaves: tuple[tuple[str, str], ...]
    head: bool


class L2SP(Regularizer):
    """Penalties on the distance of trained parameters from the source, and on the norm of the head."""

    def static(self, options: L2SPConfig, scope: Scope) -> Pull | None:
        pull = Pull(_pulled(options, scope) if options.strength or options.rules else (), options.head > 0)
        return pull if pull.leaves or pull.head else None

    def numbers(self, options: L2SPConfig) -> dict[str, Any]:
        traced: dict[str, Any] = {"head": jnp.float32(options.head)} if options.head else {}
        penalties = {REST: options.strength} | dict(reversed(options.rules))
        if any(penalties.values()):
            traced["rules"] = {pattern: jnp.float32(strength) for pattern, strength in penalties.items() if strength}
        return traced

    def source_needs(self, static: Pull, model: Network) -> SourceNeeds:
        return SourceNeeds(params=tuple(name for name, _ in static.leaves))

    def penalty(self, term: Term, context: StepContext) -> jax.Array:
        terms, pull = [], term.static
        if pull.leaves:
            penalties = {name: term.numbers["rules"][pattern] for name, pattern in pull.leaves}
            terms.append(squared_distance(context.params, context.source.params, penalties))
        if pull.head:
            head = {name: leaf for name, leaf in context.params.items() if context.model.in_head(name)}
            zeros = dict.fromkeys(head, jnp.float32(0))
            terms.append(squared_distance(head, zeros, dict.fromkeys(head, term.numbers["head"])))
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def _pulled(options: L2SPConfig, scope: Scope) -> tuple[tuple[str, str], ...]:
    """Returns (parameter, pattern of its strength) of the parameters with a penalty; for LoRA factors, their kernel.

    The head and the new units of a grown network have no counterpart in the source, and so no penalty.
    """
    head = f"{re.escape(scope.model.head)}/.*"
    rules = [Rule(f"{head}|{NEW_UNITS}.*" if scope.grows else head, 0.0, optional=True)]
    rules += [Rule(pattern, strength) for pattern, strength in options.rules]
    params = [name for name in scope.names if not is_adapter(name)]
    matches = match_rules([*rules, Rule(REST, options.strength, optional=True)], params, "L2-SP rule")
    trained = {kernel_of(name) if is_adapter(name) else name for name in scope.trained}
    return tuple((name, matches[name].pattern) for name in sorted(trained) if matches[name].value)


def squared_distance(
    params: Mapping[str, jax.Array], start: Mapping[str, jax.Array], penalties: Mapping[str, Any]
) -> jax.Array:
    """Returns the sum of strength / 2 ||w - w0||^2 over the leaves in `penalties`, a scalar.

    This is the first term of L2-SP (Li, Grandvalet & Davoine 2018, section 3.2), with a separate alpha for each leaf.
    The penalty applies to all leaves below the head: kernels, biases, scales and shifts.

    Args:
      params: the parameters w, by name.
      start: the parameters w0 of the source, by name, with the shapes of `params`.
      penalties: {leaf: strength, a scalar}.
    """
    return sum(
        (strength / 2 * jnp.square(params[name] - start[name]).sum() for name, strength in penalties.items()),
        jnp.float32(0),
    )


REGULARIZERS.register("l2_sp", L2SP(), section=L2SPConfig, help="L2 penalty on the distance from the source weights")
