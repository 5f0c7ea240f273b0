"""The numbers of a trial: hyperparameters that are traced, so that other values do not recompile the program."""

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
    """The numbers of a trial; fields without a description are float32 scalars with the names of their config fields.

    Attributes:
      learning_rate: peak learning rate of the head.
      probe_learning_rate, probe_weight_decay: learning rate and weight decay in the linear probe.
      multipliers: {pattern of a rule: factor of the learning rate of its leaves}.
      layer_decay: factor of the learning rate from each block to the block below it.
      class_weights: [classes], weights in the loss; a scalar 1 if all classes have the same weight.
      lora_scale: alpha / rank (`jaxft.training.adapters`).
      measured: arrays that regularizers measured before training, by regularizer and name.
      regularizers: numbers of the regularizers that are turned on, by regularizer and name.
      optimizer_numbers, loss_numbers: fields of the config section of the optimizer or loss; empty if it has none.
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
    """Returns the numbers of a trial. Frozen leaves have no multiplier.

    `layers` has the rule of each parameter; `class_weights: [classes]`, or a scalar.
    """
    optimizer, probe = training.optimizer, training.linear_probe
    rates = {match.pattern: match.value for match in layers.values() if match.value != FROZEN}
    return HParams(
        learning_rate=jnp.float32(optimizer.configured_rate * optimizer.rate_scale),
        probe_learning_rate=jnp.float32((probe.learning_rate or optimizer.configured_rate) * optimizer.rate_scale),
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
    """Returns the fields of the section of the optimizer or loss that `config` names, by name; {} without a section."""
    section = sections_of(config).get(config.name)
    values = {} if section is None else {name: value for name, value, _ in fields_of(section)}
    return {name: jnp.float32(value) for name, value in values.items()}
