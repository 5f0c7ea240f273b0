"""Per-layer learning rates with optax: rules, freezing, schedules.

What shapes the compiled program is in `Optimizer` (hashable); what is only a number is in `HParams` (traced). The
update is built inside the traced step, `make_tx(optimizer)(hparams)`, so that another number never recompiles.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config import FROZEN, LayerRate, Procedure
from jaxft.models.grown import NEW_UNITS
from jaxft.paths import Match, Rule, match_rules


class HParams(NamedTuple):
    """The numbers of a trial, float32 scalars.

    `multipliers` scale the learning rate of each group of layers, by the pattern of the group's rule; `layer_decay`
    scales it once more for every unit below the head. Those of the probe are in the place of the others in its phase.
    `class_weights` are [classes], those of the loss, or 1 where nothing is weighted. `lora_scale` is alpha / rank
    (`jaxft.adapters`).
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


@dataclass(frozen=True)
class Schedule:
    """The shape of a learning rate over a phase, whose peak is 1; how far 'step' lowers it is a number (`HParams`)."""

    shape: str
    num_steps: int
    warmup_steps: int = 0
    decay_steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Optimizer:
    """What of an optimiser is static: its kind and schedule, and of each trainable leaf its group and its unit's depth.

    The head has depth 0, the unit below it 1, and so on down; `probe` says which learning rate and decay are meant.
    """

    kind: str
    nesterov: bool
    schedule: Schedule
    groups: tuple[tuple[str, str], ...]  # (leaf, pattern of its rule)
    depths: tuple[tuple[str, int], ...] = ()
    probe: bool = False


def layer_rules(procedure: Procedure, first: Sequence[Rule[LayerRate]] = ()) -> list[Rule[LayerRate]]:
    """Returns the procedure's ordered rules: those that stand `first`, its own, then the head's, then the body's.

    New units of a grown network have the head's rate.

    Values are multipliers of `learning_rate`, or 'frozen'.
    """
    body = procedure.body_learning_rate
    if body is None:
        body_multiplier: LayerRate = 1.0
    else:
        body_multiplier = FROZEN if body == FROZEN else float(body) / procedure.learning_rate
    own = [Rule(pattern, value) for pattern, value in procedure.layer_rates]
    # A procedure's own rules may leave nothing to these two.
    new: list[Rule[LayerRate]] = [Rule(f"{NEW_UNITS}.*", 1.0, optional=True)] if procedure.grow != "none" else []
    return [*first, *own, *new, Rule("head/.*", 1.0, optional=True), Rule(".*", body_multiplier, optional=True)]


def resolve_layers(
    procedure: Procedure, names: Sequence[str], first: Sequence[Rule[LayerRate]] = ()
) -> dict[str, Match[LayerRate]]:
    """Returns what the rules, those that stand `first` and the procedure's, say of each parameter."""
    return match_rules(layer_rules(procedure, first), names, "layer rate")


def make_hparams(
    procedure: Procedure, layers: Mapping[str, Match[LayerRate]], class_weights: np.ndarray | float = 1.0
) -> HParams:
    """Returns the numbers of a procedure; groups that are frozen have none."""
    rates = {match.pattern: match.value for match in layers.values() if match.value != FROZEN}
    return HParams(
        learning_rate=jnp.float32(procedure.learning_rate),
        probe_learning_rate=jnp.float32(procedure.probe_learning_rate or procedure.learning_rate),
        probe_weight_decay=jnp.float32(
            procedure.weight_decay if procedure.probe_weight_decay is None else procedure.probe_weight_decay
        ),
        multipliers={pattern: jnp.float32(rate) for pattern, rate in sorted(rates.items())},
        layer_decay=jnp.float32(procedure.layer_decay),
        momentum=jnp.float32(procedure.momentum),
        beta2=jnp.float32(procedure.beta2),
        weight_decay=jnp.float32(procedure.weight_decay),
        label_smoothing=jnp.float32(procedure.label_smoothing),
        decay_factor=jnp.float32(procedure.decay_factor),
        mixup_alpha=jnp.float32(procedure.mixup_alpha),
        cutmix_alpha=jnp.float32(procedure.cutmix_alpha),
        class_weights=jnp.asarray(class_weights, jnp.float32),
        lora_scale=jnp.float32(procedure.lora_alpha / procedure.lora_rank),
    )


def make_schedule(schedule: Schedule, decay_factor: jax.Array | float = 0.1) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from step to share of the peak rate; a warm-up rises linearly to 1 at its end."""
    main_steps = schedule.num_steps - schedule.warmup_steps
    if schedule.shape == "constant":
        main = optax.constant_schedule(1.0)
    elif schedule.shape == "cosine":  # Loshchilov & Hutter 2017, without restarts
        main = optax.cosine_decay_schedule(1.0, max(main_steps, 1))
    else:
        boundaries = np.asarray(schedule.decay_steps) - schedule.warmup_steps

        # optax's piecewise schedule bakes the factor into the program.
        def main(step: jax.Array) -> jax.Array:
            return jnp.asarray(decay_factor, jnp.float32) ** (step >= boundaries).sum()

    if not schedule.warmup_steps:
        return main
    rise = optax.linear_schedule(1 / (schedule.warmup_steps + 1), 1.0, schedule.warmup_steps)
    return optax.join_schedules([rise, main], [schedule.warmup_steps])


def make_tx(optimizer: Optimizer) -> Callable[[HParams], optax.GradientTransformation]:
    """Returns the function from numbers to the optax transformation of a flat dict of trainable leaves.

    sgd: v = m v + (g + wd w), w = w - lr v, as PyTorch's SGD (and Nesterov's variant); adamw: Loshchilov & Hutter
    2019, decay scaled by the group's learning rate. Decay acts on kernels only. Layer-wise decay of the rate is that
    of Howard & Ruder 2018, section 3.2, over units: rate * layer_decay^depth. lbfgs: Nocedal & Wright 2006,
    algorithm 7.4, with a memory of ten steps and a line search; it has no rate, and decay is a term of its loss.
    """
    if optimizer.kind == "lbfgs":
        return lambda hparams: optax.lbfgs()
    labels, depths = dict(optimizer.groups), dict(optimizer.depths)

    def of_group(hparams: HParams, pattern: str) -> optax.GradientTransformation:
        strength = hparams.probe_weight_decay if optimizer.probe else hparams.weight_decay
        decay = optax.add_decayed_weights(strength, lambda params: {name: name.endswith("kernel") for name in params})
        if optimizer.kind == "sgd":
            parts = [decay, optax.trace(hparams.momentum, optimizer.nesterov)]
        else:
            parts = [optax.scale_by_adam(hparams.momentum, hparams.beta2, nesterov=optimizer.nesterov), decay]
        peak = hparams.probe_learning_rate if optimizer.probe else hparams.learning_rate
        rate = peak * hparams.multipliers[pattern]
        schedule = make_schedule(optimizer.schedule, hparams.decay_factor)
        return optax.chain(*parts, optax.scale_by_schedule(lambda step: -rate * schedule(step)))

    def tx(hparams: HParams) -> optax.GradientTransformation:
        patterns = sorted(set(labels.values()))
        by_group = optax.multi_transform({p: of_group(hparams, p) for p in patterns}, labels)
        decays = {name: hparams.layer_decay ** depths.get(name, 0) for name in labels}
        by_depth = optax.stateless(lambda updates, _: {name: u * decays[name] for name, u in updates.items()})
        return optax.chain(by_group, by_depth)

    return tx
