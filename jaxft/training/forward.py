"""The forward pass of a batch through the network, from the frozen prefix to the logits."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from jaxft.core.paths import flatten, unflatten
from jaxft.models.layers import batch_norm_in_groups
from jaxft.ops.precision import compute_dtype
from jaxft.training.noise import Noise, drop
from jaxft.training.phase import Evaluated, Phase
from jaxft.training.state import Flat, Frozen

NO_NOISE = Noise()


class Variables(NamedTuple):
    """The variables of a network: parameters that train (low-rank updates merged), tracked statistics, all the rest."""

    params: Flat
    batch_stats: Flat
    frozen: Frozen


class ForwardPass(NamedTuple):
    """What a forward pass returns.

    Attributes:
      logits: [n, classes].
      batch_stats: the tracked statistics after it.
      entering: the input of the first block above the frozen prefix.
      outputs: outputs of the blocks that were asked for.
    """

    logits: jax.Array
    batch_stats: Flat
    entering: jax.Array
    outputs: Flat


def apply_network(
    phase: Phase | Evaluated, params: Flat, batch_stats: Flat, frozen: Frozen, images: jax.Array, train: bool
) -> tuple[jax.Array, Flat]:
    """Returns logits [n, classes] for `images: [n, h, w, 3]` in 0 to 255, and the tracked statistics after them.

    LoRA factors must already be merged into `params` (`jaxft.training.adapters`). In training, batch norm uses the
    batch's statistics if any are tracked.
    """
    forward = run_network(phase, Variables(params, batch_stats, frozen), images, train)
    return forward.logits, forward.batch_stats


def run_network(
    phase: Phase | Evaluated,
    variables: Variables,
    images: jax.Array,
    train: bool,
    keep: Sequence[str] = (),
    noise: Noise = NO_NOISE,
) -> ForwardPass:
    """Returns a forward pass.

    Args:
      images: [n, h, w, 3] in 0 to 255, or outputs of the frozen prefix if the phase is `from_features`.
      train: whether batch norm uses the batch's statistics, if any are tracked.
      keep: blocks whose outputs are returned too.
      noise: dropout of the head's inputs, and factors of residual branches.
    """
    model = phase.model
    x, start, stats = enter_network(phase, variables.batch_stats, variables.frozen, images)
    if start is None:
        return ForwardPass(x, variables.batch_stats, x, {})
    entering, outputs = x, {}
    runner = _block_runner(phase, variables, noise, train)
    blocks, head, features = model.blocks, model.head, model.feature_block
    stops = {*keep, *[features] * (noise.dropout is not None)}
    if start == head and features in stops:
        outputs[features] = x
    for block in blocks[blocks.index(start) : blocks.index(head)]:
        if block in stops:
            x, stats = runner.run(x, stats, start, block)
            outputs[block] = x
            start = blocks[blocks.index(block) + 1]
    if noise.dropout is not None:
        x = drop(x, noise.dropout)
    logits, stats = runner.run(x, stats, start, head)
    return ForwardPass(logits, {name: stats[name] for name in variables.batch_stats}, entering, outputs)


def enter_network(
    phase: Phase | Evaluated, batch_stats: Flat, frozen: Frozen, images: jax.Array
) -> tuple[jax.Array, str | None, Flat]:
    """Returns the input of the first live block, that block (None if there is none), all statistics."""
    model = phase.model
    x = images if phase.from_features else phase.preprocessing.apply(images)
    stats = frozen.batch_stats | batch_stats
    if phase.prefix is None:
        return x, model.blocks[0], stats
    if not phase.from_features:
        fixed = {"params": unflatten(frozen.params), "batch_stats": unflatten(stats)}
        x = jax.lax.stop_gradient(model.apply(fixed, x, stop=phase.prefix))
    above = model.blocks[model.blocks.index(phase.prefix) + 1 :]
    return x, above[0] if above else None, stats


@dataclass(frozen=True, eq=False)
class _BlockRunner:
    """The blocks of a network with the variables of a forward pass, apart from its statistics."""

    model: Any
    variables: dict[str, Any]
    tracks: bool  # whether batch norm uses and updates the batch's statistics
    group_size: int | None
    remat: bool

    def run(self, x: jax.Array, stats: Flat, start: str, stop: str) -> tuple[jax.Array, Flat]:
        """Returns the output of `stop` for the input of `start`, and all statistics after it."""
        blocks, dtype = self.model.blocks, x.dtype
        x = x.astype(compute_dtype(self.model.precision, dtype))
        each = blocks[blocks.index(start) : blocks.index(stop) + 1]
        for begin, end in [(block, block) for block in each] if self.remat else [(start, stop)]:
            apply: Callable[..., Any] = functools.partial(self._apply, start=begin, stop=end)
            if self.remat:
                apply = rematerialized(apply)
            x, updated = apply(self.variables | {"batch_stats": unflatten(stats)}, x)
            stats = stats | flatten(updated)
        return x.astype(dtype), stats

    def _apply(self, variables: Any, x: jax.Array, start: str, stop: str) -> tuple[jax.Array, Any]:
        if not self.tracks:
            return self.model.apply(variables, x, start=start, stop=stop), {}
        with batch_norm_in_groups(self.group_size):
            x, updated = self.model.apply(variables, x, train=True, start=start, stop=stop, mutable=["batch_stats"])
        return x, updated["batch_stats"]


def _block_runner(phase: Phase | Evaluated, variables: Variables, noise: Noise, train: bool) -> _BlockRunner:
    nested = {"params": unflatten(variables.frozen.params | variables.params)}
    if noise.branch_factors:
        nested["branches"] = unflatten({f"{block}/factor": factor for block, factor in noise.branch_factors.items()})
    group_size, remat = (phase.virtual_batch_size, phase.remat) if isinstance(phase, Phase) else (None, False)
    return _BlockRunner(phase.model, nested, train and bool(variables.batch_stats), group_size, train and remat)


def rematerialized(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` of arrays, of which a gradient keeps only the arguments (Chen et al. 2016, section 3).

    It is computed again once the blocks above have their gradient, on which the last argument is made to depend: XLA on
    a CPU drops the barriers of `jax.checkpoint`, and may then compute everything at once.
    """

    @jax.custom_vjp
    def run(*args: Any) -> Any:
        return function(*args)

    def backward(args: Any, cotangents: Any) -> Any:
        after = next(leaf for leaf in jax.tree.leaves(cotangents) if leaf.size and leaf.dtype != jax.dtypes.float0)
        *first, x = args
        return jax.vjp(function, *first, x + 0 * after.ravel()[0].astype(x.dtype))[1](cotangents)

    run.defvjp(lambda *args: (function(*args), args), backward)
    return run
