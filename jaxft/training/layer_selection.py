"""Selection of the blocks that are transferred from the source, and of the parameters that train."""

import re
from collections.abc import Sequence

from jaxft.config import FROZEN, LayerRate, Training
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.rules import Rule
from jaxft.core.text import some_of
from jaxft.models import Network, block_of
from jaxft.models.growth import NEW_UNITS, WIDER
from jaxft.training.adapters import adapter_names


def grown_model(model: str, training: Training) -> str:
    """Returns the name of the network that is trained; `model` is the name of the source network."""
    initialization = training.initialization
    return model if initialization.grow == "none" else f"{model}+{initialization.grow}{initialization.grown_features}"


def is_new(training: Training, name: str) -> bool:
    """Returns whether a leaf belongs to the new units of a grown network, which the source does not have."""
    return training.initialization.grow != "none" and re.match(NEW_UNITS, name) is not None


def blocks_with_parameters(training: Training, model: Network, names: Sequence[str]) -> list[str]:
    """Returns the blocks below the head that have parameters, in the order of the network.

    A block that has only new units of a grown network is not included.
    """
    with_parameters = {block_of(name, model.blocks) for name in names if not is_new(training, name)}
    return [block for block in model.blocks if block in with_parameters and block != model.head]


def transferred_blocks(training: Training, model: Network, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the blocks that are transferred from the source; () if all weights are random.

    Raises:
      UserError: the field `transferred_blocks` names a block that the network does not have, or exceeds its number of
        blocks.
    """
    start, depth = training.initialization.start, training.initialization.transferred_blocks
    if start == "random" or (start == "mean_var" and depth is None):
        return ()
    blocks = blocks_with_parameters(training, model, names)
    if depth is None:
        return tuple(blocks)
    last = _block_index(depth, blocks, "initialization.transferred_blocks", model, end_of_stage=True)
    return tuple(blocks[: last + 1])


def _block_index(requested: int | str, blocks: Sequence[str], field: str, model: Network, end_of_stage: bool) -> int:
    """Returns the index in `blocks` of the block that `requested` names; a number n means the n-th block.

    `requested` is the value of the config field `field`. The name of a stage, such as 'stage2', means the last block of
    the stage if `end_of_stage`, otherwise the first.
    """
    if isinstance(requested, int):
        if requested > len(blocks):
            raise UserError(
                f"config field 'training.{field}' is {requested}, but {model.architecture} has only {len(blocks)} "
                "blocks with parameters below the head; use a number that is not larger."
            )
        return requested - 1
    indices = [i for i, block in enumerate(blocks) if block == requested or block.startswith(requested + "/")]
    if not indices:
        raise UserError(
            f"config field 'training.{field}' is {requested!r}{did_you_mean(requested, blocks)}; use a number of "
            f"blocks, or the name of a block with parameters below the head of {model.architecture}: "
            f"{some_of(blocks, 3)}."
        )
    return indices[-1 if end_of_stage else 0]


def with_adapters(training: Training, model: Network, names: Sequence[str]) -> list[str]:
    """Returns the names that rules apply to: `names`, and after each kernel with LoRA, its two LoRA factors."""
    all_names = []
    for name in names:
        all_names.append(name)
        is_pretrained = not (model.in_head(name) or is_new(training, name))
        if training.layers.tune == "lora" and is_pretrained and name in model.structure.kernels:
            all_names += adapter_names(name)
    return all_names


def tuning_rules(training: Training, model: Network, names: Sequence[str]) -> list[Rule[LayerRate]]:
    """Returns the rules that freeze leaves according to `tune` and `transferred`; they come before all other rules.

    They never freeze the head and the new units of a grown network. 'bias' trains biases and the shifts of batch norms
    (Ben Zaken et al. 2022 also tune the shifts of layer norms). 'batch_norm' trains scales and shifts (Mudrakarta et
    al. 2019; Frankle et al. 2021).

    Raises:
      UserError: a field names a block that the network does not have, exceeds its number of blocks, or is
        'batch_norm' for a network without batch norms.
    """
    new = f"{re.escape(model.head)}/.*" + ("" if training.initialization.grow == "none" else f"|{NEW_UNITS}.*")
    rules: list[Rule[LayerRate]] = []
    if training.initialization.transferred == FROZEN:
        rules.append(_freeze(_leaves_of_blocks(transferred_blocks(training, model, names), names), new))
    match training.layers.tune:
        case "head":
            rules.append(_freeze(".*", new))
        case "bias":
            rules.append(_freeze(".*", f"{new}|.*/bias"))
        case "batch_norm":
            if not model.norms:
                raise UserError(
                    f"config field 'training.layers.tune' is 'batch_norm', but {model.architecture} has no batch norms."
                )
            rules.append(_freeze(".*", f"{new}|{leaves_of(model.norms)}"))
        case "lora":
            rules.append(_freeze(".*", f"{new}|.*/lora_[ab]"))
        case "last_blocks":
            blocks = blocks_with_parameters(training, model, names)
            requested = training.layers.tuned_blocks
            first = _block_index(requested, blocks, "layers.tuned_blocks", model, end_of_stage=False)
            if isinstance(requested, int):  # counted from the head down
                first = len(blocks) - 1 - first
            if first:
                rules.append(_freeze(_leaves_of_blocks(blocks[:first], names), new))
    return rules


def leaves_of(layers: Sequence[str]) -> str:
    """Returns the pattern of the parameter names of layers."""
    return f"(?:{'|'.join(map(re.escape, layers))})/.*"


def _leaves_of_blocks(blocks: Sequence[str], names: Sequence[str]) -> str:
    """Returns the pattern of the parameter names of blocks; in a wider network, it also matches their new units."""
    new_units = f"(?:{WIDER})?" if any(f"{WIDER}/" in name for name in names) else ""
    return f"(?:{'|'.join(map(re.escape, blocks))}){new_units}/.*"


def _freeze(pattern: str, exclude: str) -> Rule[LayerRate]:
    return Rule(pattern, "frozen", optional=True, exclude=exclude)


def has_random_backbone(training: Training, model: Network, names: Sequence[str]) -> bool:
    """Returns whether any weights below the head are initialized randomly."""
    transfers_all = transferred_blocks(training, model, names) == tuple(blocks_with_parameters(training, model, names))
    return not transfers_all or training.initialization.grow != "none"


def has_random_start(training: Training, model: Network, names: Sequence[str]) -> bool:
    """Returns whether any initial weights are random, including LoRA factors; if so, the stream `init` matters."""
    return (
        has_random_backbone(training, model, names)
        or training.initialization.head == "lecun"
        or training.layers.tune == "lora"
    )
