"""Learning rates of parameters, by ordered rules."""

import re
from collections.abc import Mapping, Sequence

from jaxft.config import FROZEN, LayerRate, Training
from jaxft.core.rules import Match, Rule, match_rules
from jaxft.models import Network
from jaxft.models.growth import NEW_UNITS
from jaxft.training.layer_selection import leaves_of


def layer_rules(training: Training, model: Network, first: Sequence[Rule[LayerRate]] = ()) -> list[Rule[LayerRate]]:
    """Returns the ordered rules: `first`, then rules for the config, batch norms, new units, the head and the backbone.

    The value of a rule is a factor of the learning rate of the head, or 'frozen'. New units of a grown network have
    the learning rate of the head.
    """
    backbone_rate = training.layers.backbone_learning_rate
    if backbone_rate is None:
        backbone_multiplier: LayerRate = 1.0
    else:
        backbone_multiplier = (
            FROZEN if backbone_rate == FROZEN else float(backbone_rate) / training.optimizer.configured_rate
        )
    config_rules: list[Rule[LayerRate]] = [Rule(pattern, value) for pattern, value in training.layers.rates]
    # The following rules are optional, because earlier rules may match all of their parameters.
    if training.batch_norm.affine == FROZEN:
        config_rules.append(Rule(leaves_of(model.norms), FROZEN, optional=True))
    if training.initialization.grow != "none":
        config_rules.append(Rule(f"{NEW_UNITS}.*", 1.0, optional=True))
    head = Rule[LayerRate](f"{re.escape(model.head)}/.*", 1.0, optional=True)
    return [*first, *config_rules, head, Rule(".*", backbone_multiplier, optional=True)]


def resolve_layers(
    training: Training, model: Network, names: Sequence[str], first: Sequence[Rule[LayerRate]] = ()
) -> dict[str, Match[LayerRate]]:
    """Returns {parameter name: factor of the learning rate or 'frozen', and the pattern of the first matching rule}.

    Args:
      training: the config of training.
      model: the network.
      names: names of the parameters.
      first: rules that come before those of the config.

    Raises:
      UserError: a rule that is not optional is the first match of no parameter, or a pattern is not a regular
        expression.
    """
    return match_rules(layer_rules(training, model, first), names, "layer rate")


def resolve_rates(
    training: Training, layers: Mapping[str, Match[LayerRate]], depths: Mapping[str, int]
) -> dict[str, LayerRate]:
    """Returns {parameter name: learning rate at the peak of the schedule, with layer-wise decay, or 'frozen'}."""
    peak = training.optimizer.configured_rate * training.optimizer.rate_scale
    return {
        name: match.value
        if isinstance(match.value, str)
        else peak * match.value * training.layers.decay ** depths[name]
        for name, match in layers.items()
    }
