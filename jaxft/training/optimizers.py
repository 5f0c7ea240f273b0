"""Optimizers by name, and the update of all trainable leaves: per-layer rates, groups, clipping.

What shapes the compiled program is in `Optimizer` (hashable); what is only a number is in `HParams` (traced). The
update is built inside the traced step, `make_tx(optimizer)(hparams)`, so that another number never recompiles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax

from jaxft.core.paths import flatten
from jaxft.core.registries import OPTIMIZERS
from jaxft.training.hparams import HParams
from jaxft.training.schedules import Schedule, make_schedule

LBFGS = "lbfgs"  # the optimizer of a linear probe, whose step is another (`jaxft.training.lbfgs`)


class OptimizerNumbers(NamedTuple):
    """What an optimizer is built from.

    Attributes:
      decay: the optax transformation that adds the weight decay of its leaves.
      section: the fields of its section of the config, by name, if it has one.
    """

    momentum: jax.Array
    beta2: jax.Array
    nesterov: bool
    decay: optax.GradientTransformation
    section: dict[str, jax.Array]


# An optimizer is a function of `OptimizerNumbers` that returns the optax transformations before the learning rate.
OPTIMIZERS.register(
    "sgd",
    lambda numbers: [numbers.decay, optax.trace(numbers.momentum, numbers.nesterov)],
    help="v = m v + (g + wd w), w = w - lr v, as PyTorch's SGD (and Nesterov's variant)",
)
OPTIMIZERS.register(
    "adam",
    lambda numbers: [
        numbers.decay,
        optax.scale_by_adam(numbers.momentum, numbers.beta2, nesterov=numbers.nesterov),
    ],
    help="Kingma & Ba 2015, with weight decay in the gradient as in PyTorch",
)
OPTIMIZERS.register(
    "adamw",
    lambda numbers: [
        optax.scale_by_adam(numbers.momentum, numbers.beta2, nesterov=numbers.nesterov),
        numbers.decay,
    ],
    help="Loshchilov & Hutter 2019; weight decay is scaled by the layer's learning rate",
)
OPTIMIZERS.register(
    "lamb",
    lambda numbers: [
        optax.scale_by_adam(numbers.momentum, numbers.beta2, eps=1e-6),
        numbers.decay,
        optax.scale_by_trust_ratio(),
    ],
    help="You et al. 2020, algorithm 2, a trust ratio for each leaf, without bounds",
)
OPTIMIZERS.register(
    "lion",
    lambda numbers: [optax.scale_by_lion(numbers.momentum, numbers.beta2), numbers.decay],
    help="Chen et al. 2023, algorithm 2; weight decay is scaled by the layer's learning rate",
)


@dataclass(frozen=True)
class Optimizer:
    """What is static in an optimizer.

    Attributes:
      kind: its name in OPTIMIZERS, or 'lbfgs'.
      groups: the trainable leaves, each with the pattern of its rule.
      depths: of each leaf the number of blocks from the head down to its own; the head has 0.
      probe: whether the rate and the weight decay are those of the linear probe.
      joined: leaves that begin to train at a later step of the schedule than its first, with that step.
      clipped: whether the gradient is clipped.
      decayed: the leaves that weight decay acts on.
    """

    kind: str
    nesterov: bool
    schedule: Schedule
    groups: tuple[tuple[str, str], ...]
    depths: tuple[tuple[str, int], ...] = ()
    probe: bool = False
    joined: tuple[tuple[str, int], ...] = ()
    clipped: bool = False
    decayed: tuple[str, ...] = ()


def make_tx(optimizer: Optimizer) -> Callable[[HParams], optax.GradientTransformation]:
    """Returns the function from numbers to the optax transformation of a flat dict of trainable leaves.

    Layer-wise decay of the rate is that of Howard & Ruder 2018, section 3.2, over blocks: rate * layer_decay^depth.
    Clipping (Pascanu et al. 2013, algorithm 1) is by the norm over all trainable leaves, before all else. L-BFGS has a
    memory of ten steps and a line search, no rate, and its weight decay is a term of its loss.

    Leaves that join late are in groups of their own, whose counts, moments and bias corrections begin where they do;
    the schedule is the same for all.
    """
    if optimizer.kind == LBFGS:
        return lambda hparams: _with_promotion(optax.lbfgs())
    depths, joined = dict(optimizer.depths), dict(optimizer.joined)
    groups = {name: (pattern, joined.get(name, 0)) for name, pattern in optimizer.groups}
    labels = {name: f"{pattern} from step {step}" if step else pattern for name, (pattern, step) in groups.items()}

    def tx(hparams: HParams) -> optax.GradientTransformation:
        by_group = optax.multi_transform(
            {
                labels[name]: _group_tx(optimizer, hparams, *group)
                for name, group in sorted(groups.items(), key=lambda g: g[1])
            },
            labels,
        )
        decays = {name: hparams.layer_decay ** depths.get(name, 0) for name in labels}
        by_depth = optax.stateless(lambda updates, _: {name: u * decays[name] for name, u in updates.items()})
        clip = [optax.clip_by_global_norm(hparams.clip_norm)] * optimizer.clipped
        return _with_promotion(optax.chain(*clip, by_group, by_depth))

    return tx


def _group_tx(optimizer: Optimizer, hparams: HParams, pattern: str, first_step: int) -> optax.GradientTransformation:
    """Returns the transformation of the leaves of one rule that begin to train at one step of the schedule."""
    decayed = frozenset(optimizer.decayed)
    weight_decay = hparams.probe_weight_decay if optimizer.probe else hparams.weight_decay
    decay = optax.add_decayed_weights(weight_decay, lambda params: {name: name in decayed for name in params})
    numbers = OptimizerNumbers(hparams.momentum, hparams.beta2, optimizer.nesterov, decay, hparams.optimizer_numbers)
    transformations = OPTIMIZERS[optimizer.kind].value(numbers)
    peak = hparams.probe_learning_rate if optimizer.probe else hparams.learning_rate
    rate = peak * hparams.multipliers[pattern]
    schedule = make_schedule(optimizer.schedule, hparams.decay_factor)
    return optax.chain(*transformations, optax.scale_by_schedule(lambda step: -rate * schedule(step + first_step)))


def _with_promotion(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `tx` under JAX's standard promotion of dtypes: Optax has floats to the power of integer counts."""
    wrapped = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return wrapped.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def go_on_from(old: Any, new: Any) -> Any:
    """Returns the optimizer's state `new` of more leaves, in which leaves that trained before are as in `old`."""
    before = flatten(old)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: before.get(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), new
    )
