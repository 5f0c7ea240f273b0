"""Which layers start from the source, and which of them train."""

import re
from collections.abc import Sequence

from jaxft.config import FROZEN, LayerRate, Training
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.rules import Rule
from jaxft.models import Network, unit_of
from jaxft.models.growth import NEW_UNITS, WIDER
from jaxft.training.adapters import adapter_names


def grown_model(model: str, training: Training) -> str:
    """Returns the name of the network that is trained, of the source's."""
    return (
        model
        if training.initialization.grow == "none"
        else f"{model}+{training.initialization.grow}{training.initialization.grown_features}"
    )


def is_new(training: Training, name: str) -> bool:
    """Tells whether a leaf is of units that are grown, which the source has not."""
    return training.initialization.grow != "none" and re.match(NEW_UNITS, name) is not None


def with_parameters(training: Training, model: Network, names: Sequence[str]) -> list[str]:
    """Returns the units below the head that have parameters, from the first on, without those that are grown."""
    have = {unit_of(name, model.units) for name in names if not is_new(training, name)}
    return [unit for unit in model.units if unit in have and unit != model.head]


def copied_units(training: Training, model: Network, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the units that are copied from the source, without the new units beside them; none for a random start.

    Raises a `UserError` for a unit that the network does not have.
    """
    if training.initialization.start == "random" or (
        training.initialization.start == "matched" and training.initialization.copied_units is None
    ):
        return ()
    units = with_parameters(training, model, names)
    if training.initialization.copied_units is None:
        return tuple(units)
    return tuple(
        units[: _place(training.initialization.copied_units, units, "initialization.copied_units", model, -1) + 1]
    )


def _place(asked: int | str, units: Sequence[str], field: str, model: Network, of_several: int) -> int:
    """Returns where among `units` the one is that a field names or counts to; 'stage2' is its first or last block."""
    if isinstance(asked, int):
        if asked > len(units):
            raise UserError(
                f"config field 'training.{field}' is {asked}; {model.architecture} has {len(units)} units with "
                f"parameters below the head: {', '.join(units)}."
            )
        return asked - 1
    found = [i for i, unit in enumerate(units) if unit == asked or unit.startswith(asked + "/")]
    if not found:
        raise UserError(
            f"config field 'training.{field}' is {asked!r}{did_you_mean(asked, units)}; units with parameters below "
            f"the head of {model.architecture} are {', '.join(units)}, or a number of them."
        )
    return found[of_several]


def adaptable(training: Training, model: Network, names: Sequence[str]) -> list[str]:
    """Returns the parameters that the rules decide about: `names`, and after each kernel the factors of its change."""
    found = []
    for name in names:
        found.append(name)
        is_old = not (model.in_head(name) or is_new(training, name))
        if training.layers.tune == "lora" and is_old and name in model.structure.kernels:
            found += adapter_names(name)
    return found


def tuning_rules(training: Training, model: Network, names: Sequence[str]) -> list[Rule[LayerRate]]:
    """Returns the rules that freeze what `tune` and `copied` leave out; they stand before all others.

    The head and the new units of a grown network always train. Of a network whose batch norms stand for biases,
    'bias' trains their shifts (Ben Zaken et al. 2022 tune the biases of layer norms too); 'batch_norm' trains scales
    and shifts (Mudrakarta et al. 2019; Frankle et al. 2021).
    """
    head = re.escape(model.head)
    kept = f"(?!{head}/)" if training.initialization.grow == "none" else f"(?!{head}/|{NEW_UNITS})"
    rules: list[Rule[LayerRate]] = []
    if training.initialization.copied == FROZEN:
        rules.append(_freeze(f"{kept}{_of_units(copied_units(training, model, names), names)}"))
    match training.layers.tune:
        case "head":
            rules.append(_freeze(f"{kept}.*"))
        case "bias":
            rules.append(_freeze(f"{kept}(?!.*/bias$).*"))
        case "batch_norm":
            if not model.norms:
                raise UserError(f"config field 'training.layers.tune' is 'batch_norm'; {model.architecture} has none.")
            rules.append(_freeze(f"{kept}(?!{leaves_of(model.norms)}).*"))
        case "lora":
            rules.append(_freeze(rf"{kept}(?!.*/lora_[ab]$).*"))
        case "last_units":
            units_there = with_parameters(training, model, names)
            asked = training.layers.tuned_units
            if isinstance(asked, int):
                first = len(units_there) - 1 - _place(asked, units_there, "layers.tuned_units", model, 0)
            else:
                first = _place(asked, units_there, "layers.tuned_units", model, 0)
            if first:
                rules.append(_freeze(f"{kept}{_of_units(units_there[:first], names)}"))
    return rules


def leaves_of(layers: Sequence[str]) -> str:
    """Returns the pattern of the leaves of layers."""
    return f"(?:{'|'.join(map(re.escape, layers))})/.*"


def _of_units(units: Sequence[str], names: Sequence[str]) -> str:
    """Returns the pattern of the leaves of units, with those beside them in a network that was grown."""
    beside = f"(?:{WIDER})?" if any(f"{WIDER}/" in name for name in names) else ""
    return f"(?:{'|'.join(map(re.escape, units))}){beside}/.*"


def _freeze(pattern: str) -> Rule[LayerRate]:
    return Rule(pattern, "frozen", optional=True)


def draws_body(training: Training, model: Network, names: Sequence[str]) -> bool:
    """Tells whether anything of the network below the head is drawn as it starts."""
    copies_all = copied_units(training, model, names) == tuple(with_parameters(training, model, names))
    return not copies_all or training.initialization.grow != "none"


def draws(training: Training, model: Network, names: Sequence[str]) -> bool:
    """Tells whether anything of the start is drawn, changes of kernels too: the stream `init` matters."""
    return (
        draws_body(training, model, names) or training.initialization.head == "lecun" or training.layers.tune == "lora"
    )
