"""What a phase changes and what it keeps: arrays only."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.training.adapters import is_adapter
from jaxft.training.hparams import HParams
from jaxft.training.optimizers import go_on_from, make_tx
from jaxft.training.phase import Phase
from jaxft.training.source import SourceArrays

Flat = dict[str, jax.Array]


class Frozen(NamedTuple):
    """What does not change in a phase; shared by all trials of a group.

    `source_arrays` has the arrays of the source that regularizers need; None if they need none.
    """

    params: Flat
    batch_stats: Flat
    source_arrays: SourceArrays | None = None


class State(NamedTuple):
    """What changes in a phase: arrays only. `average` is that of (params, batch_stats), where one is kept."""

    params: Flat
    batch_stats: Flat
    opt_state: Any
    step: jax.Array
    key: jax.Array
    average: tuple[Flat, Flat] | tuple[()] = ()

    @property
    def evaluated(self) -> tuple[Flat, Flat]:
        """Returns the (params, batch_stats) that are evaluated and kept."""
        return self.average or (self.params, self.batch_stats)


def split_variables(
    phase: Phase, params: Mapping[str, Any], batch_stats: Mapping[str, Any]
) -> tuple[Flat, Flat, Frozen]:
    """Returns (trainable parameters, tracked statistics, all the rest) of whole flat variables.

    Factors of changes that do not train yet are left out: they change nothing (`jaxft.training.adapters`).
    """
    trainable = {name: params[name] for name in phase.trainable}
    tracked = {name: batch_stats[name] for name in phase.tracked}
    rest = Frozen(
        {name: leaf for name, leaf in params.items() if name not in trainable and not is_adapter(name)},
        {name: leaf for name, leaf in batch_stats.items() if name not in tracked},
    )
    return trainable, tracked, rest


def init_state(phase: Phase, params: Flat, batch_stats: Flat, hparams: HParams, key: jax.Array) -> State:
    """Returns the state at the start of a phase, from its trainable parameters and tracked statistics."""
    opt_state = make_tx(phase.optimizer)(hparams).init(params)
    average = jax.tree.map(jnp.zeros_like, (params, batch_stats)) if phase.averaged else ()  # zeros do not count
    return State(params, batch_stats, opt_state, jnp.int32(0), key, average)


def continue_state(old: State, new: State) -> State:
    """Returns the state `new` of a phase in which more leaves train, going on from the end of the phase before.

    Leaves that trained there keep their momentum and their average; what joins has rested so far, and so has its own.
    """
    average = new.average
    if old.average and new.average:
        untrained = jax.tree.map(jnp.copy, (new.params, new.batch_stats))  # the state's own are given up to the steps
        average = untrained[0] | old.average[0], untrained[1] | old.average[1]
    return new._replace(opt_state=go_on_from(old.opt_state, new.opt_state), average=average)
