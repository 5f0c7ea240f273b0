"""L2-SP (Li, Grandvalet & Davoine 2018): a penalty on the distance from the source's weights."""

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

REST = ".*"  # the pattern of parameters that no rule names


@dataclass(frozen=True)
class L2SPConfig(RegularizerConfig):
    """L2-SP (Li, Grandvalet & Davoine 2018): an L2 penalty on the distance from the pretrained weights."""

    strength: float = setting(
        0.0, "L2-SP: penalty on the distance of trained layers below the head from the source", traced=True, at_least=0
    )
    rules: tuple[tuple[str, float], ...] = setting(
        (), "L2-SP: ordered rules (pattern of parameter names, strength), ahead of strength", traced=True, at_least=0
    )
    head: float = setting(0.0, "L2-SP: L2 penalty on the head, which has no source", traced=True, at_least=0)

    acting = ("strength", "rules", "head")
    towards_source = ("strength", "rules")


@dataclass(frozen=True)
class Pull:
    """Parameters that are pulled to the source, each with the pattern of its strength; whether the head is to zero."""

    leaves: tuple[tuple[str, str], ...]
    head: bool


class L2SP(Regularizer):
    """Penalties on the distance of trained parameters from the source's, and on the norm of the head."""

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
    """Returns the parameters that are pulled in a phase; of a low-rank update the kernel that it changes.

    The head and new units, of which the source has no counterpart, are not among them.
    """
    head = f"{re.escape(scope.model.head)}/.*"
    rules = [Rule(f"{head}|{NEW_UNITS}.*" if scope.grows else head, 0.0, optional=True)]
    rules += [Rule(pattern, strength) for pattern, strength in options.rules]
    of_network = [name for name in scope.names if not is_adapter(name)]
    matches = match_rules([*rules, Rule(REST, options.strength, optional=True)], of_network, "L2-SP rule")
    moving = {kernel_of(name) if is_adapter(name) else name for name in scope.trained}
    return tuple((name, matches[name].pattern) for name in sorted(moving) if matches[name].value)


def squared_distance(
    params: Mapping[str, jax.Array], start: Mapping[str, jax.Array], penalties: Mapping[str, Any]
) -> jax.Array:
    """Returns the sum over the leaves named in `penalties` of strength / 2 ||w - w0||^2.

    The first term of L2-SP (Li, Grandvalet & Davoine 2018, section 3.2), whose alpha may differ from leaf to leaf. All
    leaves below the head have a counterpart in the source: kernels, biases, scales and shifts.
    """
    return sum(
        (strength / 2 * jnp.square(params[name] - start[name]).sum() for name, strength in penalties.items()),
        jnp.float32(0),
    )


REGULARIZERS.register("l2_sp", L2SP(), section=L2SPConfig, help="L2 penalty on the distance from the source's weights")
