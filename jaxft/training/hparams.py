"""The numbers of a trial: what changes from trial to trial without another compiled program."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config import FROZEN, LayerRate, Training, fields_of
from jaxft.config.sections import sections_of
from jaxft.config.training import LossConfig, OptimizerConfig
from jaxft.core.rules import Match
from jaxft.training.regularizers.active import RegularizerNumbers, make_numbers


class HParams(NamedTuple):
    """The numbers of a trial, float32 scalars.

    Attributes:
      probe_learning_rate, probe_weight_decay: replace learning_rate and weight_decay in the phase of the linear probe.
      multipliers: factor of the learning rate of each group of layers, by the pattern of the group's rule.
      layer_decay: factor of the learning rate for every block below the head.
      class_weights: [classes], weights in the loss; a scalar 1 if all classes weigh the same.
      lora_scale: alpha / rank (`jaxft.training.adapters`).
      measured: arrays that regularizers measured before training, by regularizer and name.
      optimizer_numbers, loss_numbers: fields of the config section of the optimizer, or the loss, if it has one.
      regularizers: numbers of the regularizers that are turned on, by regularizer and name.
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
    measured: dict[str, dict[str, Any]]
    regularizers: RegularizerNumbers
    optimizer_numbers: dict[str, jax.Array]
    loss_numbers: dict[str, jax.Array]


def make_hparams(
    training: Training, layers: Mapping[str, Match[LayerRate]], class_weights: np.ndarray | float = 1.0
) -> HParams:
    """Returns the numbers of training; groups that are frozen have none."""
    optimizer, probe = training.optimizer, training.linear_probe
    rates = {match.pattern: match.value for match in layers.values() if match.value != FROZEN}
    return HParams(
        learning_rate=jnp.float32(optimizer.given_rate * optimizer.rate_scale),
        probe_learning_rate=jnp.float32((probe.learning_rate or optimizer.given_rate) * optimizer.rate_scale),
        probe_weight_decay=jnp.float32(optimizer.weight_decay if probe.weight_decay is None else probe.weight_decay),
        multipliers={pattern: jnp.float32(rate) for pattern, rate in sorted(rates.items())},
        layer_decay=jnp.float32(training.layers.decay),
        momentum=jnp.float32(optimizer.momentum),
        beta2=jnp.float32(optimizer.beta2),
        weight_decay=jnp.float32(optimizer.weight_decay),
        label_smoothing=jnp.float32(training.loss.label_smoothing),
        decay_factor=jnp.float32(training.schedule.decay_factor),
        mixup_alpha=jnp.float32(training.augmentation.mixup.alpha),
        cutmix_alpha=jnp.float32(training.augmentation.cutmix.alpha),
        class_weights=jnp.asarray(class_weights, jnp.float32),
        lora_scale=jnp.float32(training.layers.lora_alpha / training.layers.lora_rank),
        clip_norm=jnp.float32(optimizer.clip_norm),
        sam_radius=jnp.float32(optimizer.sam_radius),
        ema_decay=jnp.float32(optimizer.ema_decay),
        measured={},
        regularizers=make_numbers(training),
        optimizer_numbers=_numbers_of(training.optimizer),
        loss_numbers=_numbers_of(training.loss),
    )


def _numbers_of(config: OptimizerConfig | LossConfig) -> dict[str, jax.Array]:
    """Returns the numbers in the section of the optimizer, or the loss, that `config` names; {} if it has none."""
    section = sections_of(config).get(config.name)
    values = {} if section is None else {name: value for name, value, _ in fields_of(section)}
    return {name: jnp.float32(value) for name, value in values.items()}
