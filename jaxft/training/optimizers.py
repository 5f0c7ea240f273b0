"""Optimizers by name, and the update of all trainable leaves, with per-layer learning rates and clipping.

`Optimizer` (hashable) holds everything that shapes the compiled program, and `HParams` (traced) holds the numbers. The
training step builds the transformation, `make_tx(optimizer)(hparams)`, while it is traced, so a change of the numbers
does not recompile it.
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

LBFGS = "lbfgs"  # only for linear probes; it has a separate step (`jaxft.training.lbfgs`)


class OptimizerNumbers(NamedTuple):
    """The numbers and options of an optimizer.

    Attributes:
      momentum: scalar; momentum of SGD, beta1 of Adam, AdamW, LAMB and Lion.
      beta2: scalar; beta2 of Adam, AdamW, LAMB and Lion.
      nesterov: whether to use Nesterov momentum.
      decay: the optax transformation that adds weight decay to the updates.
      section: fields of the config section of the optimizer, by name; empty if it has none.
    """

    momentum: jax.Array
    beta2: jax.Array
    nesterov: bool
    decay: optax.GradientTransformation
    section: dict[str, jax.Array]


# An optimizer is a function of `OptimizerNumbers`. It returns the optax transformations before the learning rate.
OPTIMIZERS.register(
    "sgd",
    lambda numbers: [numbers.decay, optax.trace(numbers.momentum, numbers.nesterov)],
    help="v = m v + (g + wd w), w = w - lr v, as in PyTorch; optionally with Nesterov momentum",
)
OPTIMIZERS.register(
    "adam",
    lambda numbers: [
        numbers.decay,
        optax.scale_by_adam(numbers.momentum, numbers.beta2, nesterov=numbers.nesterov),
    ],
    help="Kingma & Ba 2015; the gradient includes weight decay, as in PyTorch",
)
OPTIMIZERS.register(
    "adamw",
    lambda numbers: [
        optax.scale_by_adam(numbers.momentum, numbers.beta2, nesterov=numbers.nesterov),
        numbers.decay,
    ],
    help="Loshchilov & Hutter 2019; weight decay is multiplied by the learning rate of the layer",
)
OPTIMIZERS.register(
    "lamb",
    lambda numbers: [
        optax.scale_by_adam(numbers.momentum, numbers.beta2, eps=1e-6),
        numbers.decay,
        optax.scale_by_trust_ratio(),
    ],
    help="You et al. 2020, algorithm 2; each leaf has a trust ratio, without bounds",
)
OPTIMIZERS.register(
    "lion",
    lambda numbers: [optax.scale_by_lion(numbers.momentum, numbers.beta2), numbers.decay],
    help="Chen et al. 2023, algorithm 2; weight decay is multiplied by the learning rate of the layer",
)


@dataclass(frozen=True)
class Optimizer:
    """The static part of an optimizer.

    Attributes:
      kind: name in OPTIMIZERS, or 'lbfgs'.
      nesterov: whether to use Nesterov momentum.
      schedule: the learning-rate schedule.
      groups: (trainable leaf, pattern of its rule).
      depths: (leaf, number of blocks from the head down to the block of the leaf); the head has depth 0.
      probe: whether the learning rate and the weight decay are those of the linear probe.
      joined: (leaf, step of the schedule at which it starts to train), for leaves that start later than step 0.
      clipped: whether the gradient is clipped.
      decayed: leaves with weight decay.
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
    """Returns a function from the numbers of a trial to the optax transformation of a flat dict of trainable leaves.

    Layer-wise decay multiplies the learning rate by layer_decay^depth (Howard & Ruder 2018, section 3.2; here per
    block). Clipping comes first, by the norm over all trainable leaves (Pascanu et al. 2013, algorithm 1). L-BFGS has a
    memory of ten steps, a line search and no learning rate; weight decay is a term of its objective.

    A group is all leaves with the same rule that start to train at the same step. The step counts, moments and bias
    corrections of a group start at this step. All groups share one schedule.
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
                for name, group in sorted(groups.items(), key=lambda item: item[1])
            },
            labels,
        )
        factors = {name: hparams.layer_decay ** depths.get(name, 0) for name in labels}
        by_depth = optax.stateless(lambda updates, _: {name: u * factors[name] for name, u in updates.items()})
        if optimizer.clipped:
            return _with_promotion(optax.chain(optax.clip_by_global_norm(hparams.clip_norm), by_group, by_depth))
        return _with_promotion(optax.chain(by_group, by_depth))

    return tx


def _group_tx(optimizer: Optimizer, hparams: HParams, pattern: str, first_step: int) -> optax.GradientTransformation:
    """Returns the transformation of the leaves with the rule `pattern` that start to train at `first_step`."""
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
    """Returns `tx` with the standard dtype promotion of JAX, because optax computes float ** int32 (the step count)."""
    wrapped = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return wrapped.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def continue_opt_state(old: Any, new: Any) -> Any:
    """Returns the optimizer state of a phase with more trainable leaves, continued from the phase before.

    `old` is the final state of the phase before; arrays that are in `old` come from it. `new` is the initial state of
    the phase; arrays of leaves that start to train come from it.
    """
    old_arrays = flatten(old)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: old_arrays.get(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), new
    )
