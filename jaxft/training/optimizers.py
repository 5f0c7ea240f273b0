"""Per-layer learning rates with optax: rules, freezing, optimisers.

What shapes the compiled program is in `Optimizer` (hashable); what is only a number is in `HParams` (traced). The
update is built inside the traced step, `make_tx(optimizer)(hparams)`, so that another number never recompiles.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config import FROZEN, LayerRate, Training
from jaxft.core.paths import flatten
from jaxft.core.rules import Match, Rule, match_rules
from jaxft.models import Network
from jaxft.models.growth import NEW_UNITS
from jaxft.training.initialization import leaves_of
from jaxft.training.regularization import make_numbers
from jaxft.training.schedules import Schedule, make_schedule


class HParams(NamedTuple):
    """The numbers of a trial, float32 scalars.

    `multipliers` scale the learning rate of each group of layers, by the pattern of the group's rule; `layer_decay`
    scales it once more for every unit below the head. Those of the probe are in the place of the others in its phase.
    `class_weights` are [classes], those of the loss, or 1 where nothing is weighted. `lora_scale` is alpha / rank
    (`jaxft.training.adapters`). `regularisers` has the strengths of those that act, and nothing of the others
    (`regularisers.make_numbers`).
    """

    learning_rate: jax.Array
    probe_learning_rate: jax.Array
    probe_weight_decay: jax.Array
    multipliers: dict[str, jax.Array]
    layer_decay: jax.Array
    momentum: jax.Array
    beta2: jax.Array
    weight_decay: jax.Array
    label_smoothing: jax.Array
    decay_factor: jax.Array
    mixup_alpha: jax.Array
    cutmix_alpha: jax.Array
    class_weights: jax.Array
    lora_scale: jax.Array
    clip_norm: jax.Array
    sam_radius: jax.Array
    ema_decay: jax.Array
    regularisers: dict[str, Any]


@dataclass(frozen=True)
class Optimizer:
    """What of an optimiser is static: its kind and schedule, and of each trainable leaf its group and its unit's depth.

    The head has depth 0, the unit below it 1, and so on down; `probe` says which learning rate and decay are meant.
    `joined` are the leaves that begin to train at a later step of the schedule than its first, and at which;
    `clipped` says that the gradient is clipped. `decayed` are the leaves that weight decay acts on.
    """

    kind: str
    nesterov: bool
    schedule: Schedule
    groups: tuple[tuple[str, str], ...]  # (leaf, pattern of its rule)
    depths: tuple[tuple[str, int], ...] = ()
    probe: bool = False
    joined: tuple[tuple[str, int], ...] = ()
    clipped: bool = False
    decayed: tuple[str, ...] = ()


def layer_rules(training: Training, model: Network, first: Sequence[Rule[LayerRate]] = ()) -> list[Rule[LayerRate]]:
    """Returns the ordered rules: those that stand `first`, the config's own, batch norm's, the head's, the body's.

    New units of a grown network have the head's rate. Values are multipliers of the head's rate, or 'frozen'.
    """
    body = training.layers.backbone_learning_rate
    if body is None:
        body_multiplier: LayerRate = 1.0
    else:
        body_multiplier = FROZEN if body == FROZEN else float(body) / training.optimizer.given_rate
    own: list[Rule[LayerRate]] = [Rule(pattern, value) for pattern, value in training.layers.rates]
    # The rules before them may leave nothing to these.
    if training.batch_norm.affine == FROZEN:
        own.append(Rule(leaves_of(model.norms), FROZEN, optional=True))
    if training.initialization.grow != "none":
        own.append(Rule(f"{NEW_UNITS}.*", 1.0, optional=True))
    head = Rule[LayerRate](f"{re.escape(model.head)}/.*", 1.0, optional=True)
    return [*first, *own, head, Rule(".*", body_multiplier, optional=True)]


def resolve_layers(
    training: Training, model: Network, names: Sequence[str], first: Sequence[Rule[LayerRate]] = ()
) -> dict[str, Match[LayerRate]]:
    """Returns what the rules, those that stand `first` and the config's, say of each parameter."""
    return match_rules(layer_rules(training, model, first), names, "layer rate")


def resolve_rates(
    training: Training, layers: Mapping[str, Match[LayerRate]], depths: Mapping[str, int]
) -> dict[str, LayerRate]:
    """Returns the learning rate of each parameter at the peak of the schedule, decayed by its depth, or 'frozen'."""
    peak = training.optimizer.given_rate * training.optimizer.rate_scale
    return {
        name: match.value
        if isinstance(match.value, str)
        else peak * match.value * training.layers.decay ** depths[name]
        for name, match in layers.items()
    }


def make_hparams(
    training: Training, layers: Mapping[str, Match[LayerRate]], class_weights: np.ndarray | float = 1.0
) -> HParams:
    """Returns the numbers of training; groups that are frozen have none."""
    rates = {match.pattern: match.value for match in layers.values() if match.value != FROZEN}
    return HParams(
        learning_rate=jnp.float32(training.optimizer.given_rate * training.optimizer.rate_scale),
        probe_learning_rate=jnp.float32(
            (training.linear_probe.learning_rate or training.optimizer.given_rate) * training.optimizer.rate_scale
        ),
        probe_weight_decay=jnp.float32(
            training.optimizer.weight_decay
            if training.linear_probe.weight_decay is None
            else training.linear_probe.weight_decay
        ),
        multipliers={pattern: jnp.float32(rate) for pattern, rate in sorted(rates.items())},
        layer_decay=jnp.float32(training.layers.decay),
        momentum=jnp.float32(training.optimizer.momentum),
        beta2=jnp.float32(training.optimizer.beta2),
        weight_decay=jnp.float32(training.optimizer.weight_decay),
        label_smoothing=jnp.float32(training.loss.label_smoothing),
        decay_factor=jnp.float32(training.schedule.decay_factor),
        mixup_alpha=jnp.float32(training.augmentation.mixup.alpha),
        cutmix_alpha=jnp.float32(training.augmentation.cutmix.alpha),
        class_weights=jnp.asarray(class_weights, jnp.float32),
        lora_scale=jnp.float32(training.layers.lora_alpha / training.layers.lora_rank),
        clip_norm=jnp.float32(training.optimizer.clip_norm),
        sam_radius=jnp.float32(training.optimizer.sam_radius),
        ema_decay=jnp.float32(training.optimizer.ema_decay),
        regularisers=make_numbers(training),
    )


def make_tx(optimizer: Optimizer) -> Callable[[HParams], optax.GradientTransformation]:
    """Returns the function from numbers to the optax transformation of a flat dict of trainable leaves.

    sgd: v = m v + (g + wd w), w = w - lr v, as PyTorch's SGD (and Nesterov's variant); adam: Kingma & Ba 2015, decay in
    the gradient as in PyTorch; adamw: Loshchilov & Hutter 2019; lamb: You et al. 2020, algorithm 2, a trust ratio a
    leaf, without bounds; lion: Chen et al. 2023, algorithm 2. In the last three decay is scaled by the leaf's learning
    rate. Decay acts on the `decayed` leaves. Layer-wise decay of the rate is Howard & Ruder 2018, section 3.2, over
    units: rate * layer_decay^depth. Clipping (Pascanu et al. 2013, algorithm 1) is by the norm over all trainable
    leaves, before all else. lbfgs: Nocedal & Wright 2006, algorithm 7.4, with a memory of ten steps and a line search;
    it has no rate, and decay is a term of its loss.

    Leaves that join late are in groups of their own, whose counts, moments and bias corrections begin where they do;
    the schedule is the same for all.
    """
    if optimizer.kind == "lbfgs":
        return lambda hparams: _with_promotion(optax.lbfgs())
    depths, joined, decayed = dict(optimizer.depths), dict(optimizer.joined), frozenset(optimizer.decayed)
    groups = {name: (pattern, joined.get(name, 0)) for name, pattern in optimizer.groups}
    labels = {name: f"{pattern} from step {step}" if step else pattern for name, (pattern, step) in groups.items()}

    def of_group(hparams: HParams, pattern: str, first_step: int) -> optax.GradientTransformation:
        strength = hparams.probe_weight_decay if optimizer.probe else hparams.weight_decay
        decay = optax.add_decayed_weights(strength, lambda params: {name: name in decayed for name in params})
        first, second = hparams.momentum, hparams.beta2
        parts = {
            "sgd": lambda: [decay, optax.trace(first, optimizer.nesterov)],
            "adam": lambda: [decay, optax.scale_by_adam(first, second, nesterov=optimizer.nesterov)],
            "adamw": lambda: [optax.scale_by_adam(first, second, nesterov=optimizer.nesterov), decay],
            "lamb": lambda: [optax.scale_by_adam(first, second, eps=1e-6), decay, optax.scale_by_trust_ratio()],
            "lion": lambda: [optax.scale_by_lion(first, second), decay],
        }[optimizer.kind]()
        peak = hparams.probe_learning_rate if optimizer.probe else hparams.learning_rate
        rate = peak * hparams.multipliers[pattern]
        schedule = make_schedule(optimizer.schedule, hparams.decay_factor)
        return optax.chain(*parts, optax.scale_by_schedule(lambda step: -rate * schedule(step + first_step)))

    def tx(hparams: HParams) -> optax.GradientTransformation:
        by_group = optax.multi_transform(
            {labels[name]: of_group(hparams, *group) for name, group in sorted(groups.items(), key=lambda g: g[1])},
            labels,
        )
        decays = {name: hparams.layer_decay ** depths.get(name, 0) for name in labels}
        by_depth = optax.stateless(lambda updates, _: {name: u * decays[name] for name, u in updates.items()})
        clip = [optax.clip_by_global_norm(hparams.clip_norm)] * optimizer.clipped
        return _with_promotion(optax.chain(*clip, by_group, by_depth))

    return tx


def _with_promotion(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `tx` under JAX's standard promotion of dtypes: Optax has floats to the power of integer counts."""
    wrapped = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return wrapped.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def go_on_from(old: Any, new: Any) -> Any:
    """Returns the optimiser's state `new` of more leaves, those that trained before as they are in `old`."""
    before = flatten(old)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: before.get(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), new
    )
