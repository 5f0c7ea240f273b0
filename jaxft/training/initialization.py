"""Where a trial starts, and what of it trains: which units are the source's, how others are drawn, the head.

Transfer depth (Yosinski et al. 2014): the first units are copied from the source, the others begin anew, and the copied
ones are frozen (AnB, BnB) or tuned (AnB+, BnB+). Random starts with the pretrained weights' mean and variance, and
copies of the first units alone ("weight transfusion"), are those of Raghu et al. 2019, section 5. Presets of what
trains are ordered rules, ahead of the config's own, which are made when a study is planned.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config import FROZEN, LayerRate, Training
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.paths import flatten
from jaxft.core.rules import Rule
from jaxft.data.augmentation.augment import Changes
from jaxft.data.streaming import Pixels
from jaxft.features.cache import FeatureCache
from jaxft.features.prefix import Prefix
from jaxft.models import Network, Preprocessing, unit_of
from jaxft.models.growth import NEW_UNITS, WIDER
from jaxft.models.initialization import init_head, init_variables
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


def start_body(
    model: Network, training: Training, key: jax.Array, size_px: int, source: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """Returns the flat `params` and `batch_stats` at the start, with a head drawn from `key` (LeCun's scheme).

    Copied units have the source's parameters and statistics. All else is drawn as the architecture is from scratch, or
    of init 'matched' each parameter i.i.d. normal with the mean and standard deviation of its leaf in the source, and
    with the statistics of a new network. New units are always drawn as from scratch.

    Args:
      source: the leaves below its head by name, with their collection (`params/stem/conv/kernel`); none: no source.
    """
    if source is None:
        return collections(flatten(init_variables(model, key, size_px)))
    old = {name: leaf for name, leaf in source.items() if not name.startswith("counters/")}
    names = [name.partition("/")[2] for name in old if name.startswith("params/")]
    copied = set(copied_units(training, model, names))
    taken = {name: leaf for name, leaf in old.items() if unit_of(name.partition("/")[2], model.units) in copied}
    if len(taken) == len(old) and training.initialization.grow == "none":
        return collections(taken | flatten(init_head(model, key, size_px)))
    fresh = flatten(init_variables(model, key, size_px))
    if training.initialization.start == "matched":
        params = {name: leaf for name, leaf in old.items() if name.startswith("params/") and name not in taken}
        for name, leaf in params.items():
            fresh[name] = matched(leaf, jax.random.fold_in(key, zlib.crc32(name.encode())))
    return collections(fresh | taken)


def matched(leaf: Any, key: jax.Array) -> jax.Array:
    """Returns values i.i.d. normal with the mean and standard deviation of those of `leaf` (Raghu et al. 2019)."""
    values = np.asarray(leaf, np.float64)
    mean, std = np.float32(values.mean()), np.float32(values.std())
    return mean + std * jax.random.normal(key, values.shape)


def start_head(
    model: Network,
    preprocessing: Preprocessing,
    training: Training,
    start: Mapping[str, Mapping[str, Any]],
    images: Pixels,
    fingerprint: str,
    rows: np.ndarray,
    labels: np.ndarray,
    cache: FeatureCache,
) -> dict[str, jax.Array]:
    """Returns the head's parameters at the start, by name.

    'class_means': the column of class c is m_c / ||m_c||, where m_c is the mean over the class's training images of
    f / ||f||, f what the head sees of an image, as in evaluation; biases are zero. The class with the largest logit is
    the one of Qi, Brown & Lowe 2018 ("imprinted weights"), whose features are normalised too, and whose
    logits are times a number that is learnt, ours times ||f||.

    Args:
      start: the flat `params` and `batch_stats`.
      rows: [m] of the images, to train on; `labels`: [m] their classes, as the trial sees them.
    """
    head = {name: leaf for name, leaf in start["params"].items() if model.in_head(name)}
    if training.initialization.head == "lecun":
        return head
    check_head(training, model)
    if training.initialization.head == "zeros":
        return {name: jnp.zeros_like(leaf) for name, leaf in head.items()}
    size_px = preprocessing.size_px
    centre = Changes(crop_px=None if images.shape[1] == size_px else size_px)
    key = jax.random.key_data(jax.random.key(0))  # for random views, of which none are asked for
    prefix = Prefix(model, preprocessing, model.feature_block, start, images, fingerprint, centre, key)
    kernel = imprint(cache.outputs(prefix, rows), labels, model.num_classes)
    bias = jnp.zeros(model.num_classes, jnp.float32)
    return {f"{model.head}/kernel": jnp.asarray(kernel), f"{model.head}/bias": bias}


def imprint(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns [features, classes] float32, the columns of `start_head`, of `features: [n, features]`.

    A class without images, and one whose features cancel, has a column of zeros.
    """
    found = np.asarray(features, np.float64)
    unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    sums = np.zeros((num_classes, found.shape[1]))
    np.add.at(sums, labels, unit)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).T.astype(np.float32)


def check_head(training: Training, model: Network) -> None:
    """Raises a `UserError` where the head has to begin from other weights, and is no dense layer of features."""
    if training.initialization.head != "lecun" and not model.has_linear_head:
        raise UserError(
            f"config field 'training.initialization.head' is {training.initialization.head!r}, but the classifier of "
            f"{model.architecture} reads maps and has a ReLU after it; use 'lecun'."
        )


def collections(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the `params` and the `batch_stats` among leaves that are named with their collection, by their own names.

    Counters, which no result depends on, are left out.
    """
    found: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, leaf in flat.items():
        collection, _, own = name.partition("/")
        if collection in found:
            found[collection][own] = leaf
    return found
