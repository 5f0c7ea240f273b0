"""Which layers start from the source, and which of them train."""

import re
from collections.abc import Sequence

from jaxft.config import FROZEN, LayerRate, Training
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.rules import Rule
from jaxft.models import Network, block_of
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


def blocks_with_parameters(training: Training, model: Network, names: Sequence[str]) -> list[str]:
    """Returns the units below the head that have parameters, from the first on, without those that are grown."""
    have = {block_of(name, model.blocks) for name in names if not is_new(training, name)}
    return [block for block in model.blocks if block in have and block != model.head]


def transferred_blocks(training: Training, model: Network, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the units that are copied from the source, without the new units beside them; none for a random start.

    Raises a `UserError` for a unit that the network does not have.
    """
    if training.initialization.start == "random" or (
        training.initialization.start == "mean_var" and training.initialization.transferred_blocks is None
    ):
        return ()
    blocks = blocks_with_parameters(training, model, names)
    if training.initialization.transferred_blocks is None:
        return tuple(blocks)
    return tuple(
        blocks[
            : _block_index(
                training.initialization.transferred_blocks, blocks, "initialization.transferred_blocks", model, -1
            )
            + 1
        ]
    )


def _block_index(requested: int | str, blocks: Sequence[str], field: str, model: Network, of_several: int) -> int:
    """Returns where among `blocks` the one is that a field names or counts to; 'stage2' is its first or last block."""
    if isinstance(requested, int):
        if requested > len(blocks):
            raise UserError(
                f"config field 'training.{field}' is {requested}; {model.architecture} has {len(blocks)} units with "
                f"parameters below the head: {', '.join(blocks)}."
            )
        return requested - 1
    indices = [i for i, block in enumerate(blocks) if block == requested or block.startswith(requested + "/")]
    if not indices:
        raise UserError(
            f"config field 'training.{field}' is {requested!r}{did_you_mean(requested, blocks)}; units with "
            f"parameters below the head of {model.architecture} are {', '.join(blocks)}, or a number of them."
        )
    return indices[of_several]


def adaptable(training: Training, model: Network, names: Sequence[str]) -> list[str]:
    """Returns the parameters that the rules decide about: `names`, and after each kernel the factors of its change."""
    adaptable_names = []
    for name in names:
        adaptable_names.append(name)
        is_old = not (model.in_head(name) or is_new(training, name))
        if training.layers.tune == "lora" and is_old and name in model.structure.kernels:
            adaptable_names += adapter_names(name)
    return adaptable_names


def tuning_rules(training: Training, model: Network, names: Sequence[str]) -> list[Rule[LayerRate]]:
    """Returns the rules that freeze what `tune` and `transferred` leave out; they stand before all others.

    The head and the new units of a grown network always train. Of a network whose batch norms stand for biases,
    'bias' trains their shifts (Ben Zaken et al. 2022 tune the biases of layer norms too); 'batch_norm' trains scales
    and shifts (Mudrakarta et al. 2019; Frankle et al. 2021).
    """
    head = re.escape(model.head)
    kept = f"(?!{head}/)" if training.initialization.grow == "none" else f"(?!{head}/|{NEW_UNITS})"
    rules: list[Rule[LayerRate]] = []
    if training.initialization.transferred == FROZEN:
        rules.append(_freeze(f"{kept}{_leaves_of_blocks(transferred_blocks(training, model, names), names)}"))
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
        case "last_blocks":
            blocks = blocks_with_parameters(training, model, names)
            requested = training.layers.tuned_blocks
            if isinstance(requested, int):
                first = len(blocks) - 1 - _block_index(requested, blocks, "layers.tuned_blocks", model, 0)
            else:
                first = _block_index(requested, blocks, "layers.tuned_blocks", model, 0)
            if first:
                rules.append(_freeze(f"{kept}{_leaves_of_blocks(blocks[:first], names)}"))
    return rules


def leaves_of(layers: Sequence[str]) -> str:
    """Returns the pattern of the leaves of layers."""
    return f"(?:{'|'.join(map(re.escape, layers))})/.*"


def _leaves_of_blocks(blocks: Sequence[str], names: Sequence[str]) -> str:
    """Returns the pattern of the leaves of units, with those beside them in a network that was grown."""
    beside = f"(?:{WIDER})?" if any(f"{WIDER}/" in name for name in names) else ""
    return f"(?:{'|'.join(map(re.escape, blocks))}){beside}/.*"


def _freeze(pattern: str) -> Rule[LayerRate]:
    return Rule(pattern, "frozen", optional=True)


def has_random_backbone(training: Training, model: Network, names: Sequence[str]) -> bool:
    """Tells whether anything of the network below the head is drawn as it starts."""
    transfers_all = transferred_blocks(training, model, names) == tuple(blocks_with_parameters(training, model, names))
    return not transfers_all or training.initialization.grow != "none"


def has_random_start(training: Training, model: Network, names: Sequence[str]) -> bool:
    """Tells whether anything of the start is drawn, changes of kernels too: the stream `init` matters."""
    return (
        has_random_backbone(training, model, names)
        or training.initialization.head == "lecun"
        or training.layers.tune == "lora"
    )
