"""The state of training and the frozen variables of a phase; both contain only arrays."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.training.adapters import is_adapter
from jaxft.training.hparams import HParams
from jaxft.training.optimizers import continue_opt_state, make_tx
from jaxft.training.phase import Phase
from jaxft.training.source import SourceArrays

Flat = dict[str, jax.Array]


class Frozen(NamedTuple):
    """The variables that do not change in a phase; all trials of a group share them.

    Attributes:
      params: frozen parameters.
      batch_stats: frozen batch-norm statistics.
      source_arrays: arrays of the source that regularizers need; None if no regularizer needs any.
    """

    params: Flat
    batch_stats: Flat
    source_arrays: SourceArrays | None = None


class State(NamedTuple):
    """The variables that change in a phase.

    Attributes:
      params: trainable parameters.
      batch_stats: tracked batch-norm statistics.
      opt_state: state of the optax transformation.
      step: int32 scalar, the number of completed steps of the phase.
      key: random key of the trial.
      average: moving average of (params, batch_stats); () if the phase has none.
    """

    params: Flat
    batch_stats: Flat
    opt_state: Any
    step: jax.Array
    key: jax.Array
    average: tuple[Flat, Flat] | tuple[()] = ()

    @property
    def evaluated(self) -> tuple[Flat, Flat]:
        """Returns the (params, batch_stats) that are evaluated and saved: the moving average, if there is one."""
        return self.average or (self.params, self.batch_stats)


def split_variables(
    phase: Phase, params: Mapping[str, Any], batch_stats: Mapping[str, Any]
) -> tuple[Flat, Flat, Frozen]:
    """Returns (trainable parameters, tracked statistics, frozen variables) of all variables, as flat dicts.

    LoRA factors that do not train are left out: they have no effect, because B is zero (`jaxft.training.adapters`).
    """
    trainable = {name: params[name] for name in phase.trainable}
    tracked = {name: batch_stats[name] for name in phase.tracked}
    frozen = Frozen(
        {name: leaf for name, leaf in params.items() if name not in trainable and not is_adapter(name)},
        {name: leaf for name, leaf in batch_stats.items() if name not in tracked},
    )
    return trainable, tracked, frozen


def init_state(phase: Phase, params: Flat, batch_stats: Flat, hparams: HParams, key: jax.Array) -> State:
    """Returns the state at the start of a phase.

    Args:
      phase: the static part of the phase.
      params: trainable parameters.
      batch_stats: tracked statistics.
      hparams: the numbers of the trial.
      key: random key, a scalar; it determines augmentation and noise.
    """
    opt_state = make_tx(phase.optimizer)(hparams).init(params)
    average = jax.tree.map(jnp.zeros_like, (params, batch_stats)) if phase.averaged else ()  # zeros have no weight
    return State(params, batch_stats, opt_state, jnp.int32(0), key, average)


def continue_state(old: State, new: State) -> State:
    """Returns the state `new` of a phase with more trainable leaves, continued from `old`, the end of the last phase.

    Leaves that trained before keep their optimizer state and their average. The average of a leaf that joins is its
    current value, because the leaf has not changed so far.
    """
    average = new.average
    if old.average and new.average:
        current = jax.tree.map(jnp.copy, (new.params, new.batch_stats))  # copied, because a step donates the state
        average = current[0] | old.average[0], current[1] | old.average[1]
    return new._replace(opt_state=continue_opt_state(old.opt_state, new.opt_state), average=average)
