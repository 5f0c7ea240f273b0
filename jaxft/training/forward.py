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
from jaxft.training.phase import EvalSpec, Phase
from jaxft.training.state import Flat, Frozen

NO_NOISE = Noise()


class Variables(NamedTuple):
    """The variables of a network.

    Attributes:
      params: trainable parameters, with LoRA factors merged.
      batch_stats: tracked batch-norm statistics.
      frozen: frozen parameters and statistics.
    """

    params: Flat
    batch_stats: Flat
    frozen: Frozen


class ForwardPass(NamedTuple):
    """The results of a forward pass.

    Attributes:
      logits: [n, classes].
      batch_stats: the tracked statistics after the pass.
      entering: [n, ...], the input of the first block above the frozen prefix.
      outputs: {block: [n, ...]}, outputs of the requested blocks.
    """

    logits: jax.Array
    batch_stats: Flat
    entering: jax.Array
    outputs: Flat


def apply_network(
    phase: Phase | EvalSpec, params: Flat, batch_stats: Flat, frozen: Frozen, images: jax.Array, train: bool
) -> tuple[jax.Array, Flat]:
    """Returns (logits [n, classes], tracked statistics after the forward pass).

    Args:
      phase: the static part of training or evaluation.
      params: trainable parameters; LoRA factors must already be merged (`jaxft.training.adapters.merge`).
      batch_stats: tracked statistics.
      frozen: frozen parameters and statistics.
      images: [n, h, w, 3] in 0 to 255, or outputs of the frozen prefix if the phase is `from_features`.
      train: whether batch norm uses the statistics of the batch, if any are tracked.
    """
    forward = run_network(phase, Variables(params, batch_stats, frozen), images, train)
    return forward.logits, forward.batch_stats


def run_network(
    phase: Phase | EvalSpec,
    variables: Variables,
    images: jax.Array,
    train: bool,
    keep: Sequence[str] = (),
    noise: Noise = NO_NOISE,
) -> ForwardPass:
    """Returns the results of a forward pass.

    Args:
      phase: the static part of training or evaluation.
      variables: the variables of the network.
      images: [n, h, w, 3] in 0 to 255, or outputs of the frozen prefix if the phase is `from_features`.
      train: whether batch norm uses the statistics of the batch, if any are tracked.
      keep: blocks whose outputs are also returned.
      noise: dropout of the inputs of the head, and factors of residual branches.
    """
    model = phase.model
    x, stats = enter_network(phase, variables.batch_stats, variables.frozen, images)
    after = phase.prefix
    if after == model.head:
        return ForwardPass(x, variables.batch_stats, x, {})
    entering, outputs = x, {}
    runner = _block_runner(phase, variables, noise, train)
    features = model.feature_block
    stops = set(keep)
    if noise.dropout is not None:
        stops.add(features)
    if after == features and features in stops:
        outputs[features] = x
    for block in model.blocks_after(after, features):
        if block in stops:
            x, stats = runner.run(x, stats, after, block)
            outputs[block] = x
            after = block
    if noise.dropout is not None:
        x = drop(x, noise.dropout)
    logits, stats = runner.run(x, stats, after, model.head)
    return ForwardPass(logits, {name: stats[name] for name in variables.batch_stats}, entering, outputs)


def enter_network(
    phase: Phase | EvalSpec, batch_stats: Flat, frozen: Frozen, images: jax.Array
) -> tuple[jax.Array, Flat]:
    """Returns (output [n, ...] of the frozen prefix, all statistics); without a prefix, the input of the network.

    Args:
      phase: the static part of training or evaluation.
      batch_stats: tracked statistics.
      frozen: frozen parameters and statistics.
      images: [n, h, w, 3] in 0 to 255, or outputs of the frozen prefix if the phase is `from_features`.
    """
    model = phase.model
    x = images if phase.from_features else phase.preprocessing.apply(images)
    stats = frozen.batch_stats | batch_stats
    if phase.prefix is not None and not phase.from_features:
        fixed = {"params": unflatten(frozen.params), "batch_stats": unflatten(stats)}
        x = jax.lax.stop_gradient(model.apply(fixed, x, stop=phase.prefix))
    return x, stats


@dataclass(frozen=True, eq=False)
class _BlockRunner:
    """Runs blocks of a network with fixed parameters; statistics are arguments."""

    model: Any
    variables: dict[str, Any]
    tracks: bool  # whether batch norm uses the statistics of the batch and updates the running statistics
    group_size: int | None
    remat: bool

    def run(self, x: jax.Array, stats: Flat, after: str | None, stop: str) -> tuple[jax.Array, Flat]:
        """Returns the output [n, ...] of block `stop` for `x`, the output of block `after`, and all statistics."""
        dtype = x.dtype
        x = x.astype(compute_dtype(self.model.precision, dtype))
        ends = self.model.blocks_after(after, stop) if self.remat else (stop,)
        for last in ends:
            apply: Callable[..., Any] = functools.partial(self._apply, after=after, stop=last)
            if self.remat:
                apply = rematerialized(apply)
            x, updated = apply(self.variables | {"batch_stats": unflatten(stats)}, x)
            stats = stats | flatten(updated)
            after = last
        return x.astype(dtype), stats

    def _apply(self, variables: Any, x: jax.Array, after: str | None, stop: str) -> tuple[jax.Array, Any]:
        if not self.tracks:
            return self.model.apply(variables, x, after=after, stop=stop), {}
        with batch_norm_in_groups(self.group_size):
            x, updated = self.model.apply(variables, x, train=True, after=after, stop=stop, mutable=["batch_stats"])
        return x, updated["batch_stats"]


def _block_runner(phase: Phase | EvalSpec, variables: Variables, noise: Noise, train: bool) -> _BlockRunner:
    nested = {"params": unflatten(variables.frozen.params | variables.params)}
    if noise.branch_factors:
        nested["branches"] = unflatten({f"{block}/factor": factor for block, factor in noise.branch_factors.items()})
    group_size, remat = (phase.virtual_batch_size, phase.remat) if isinstance(phase, Phase) else (None, False)
    return _BlockRunner(phase.model, nested, train and bool(variables.batch_stats), group_size, train and remat)


def rematerialized(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` such that a gradient stores only its arguments (Chen et al. 2016, section 3).

    The backward pass recomputes the function. The last argument depends on the gradient of the following blocks, so
    the recomputation cannot start before this gradient exists. `jax.checkpoint` is not sufficient: XLA on a CPU drops
    its barriers, and may recompute all blocks at the same time.
    """

    @jax.custom_vjp
    def run(*args: Any) -> Any:
        return function(*args)

    def backward(args: Any, cotangents: Any) -> Any:
        gradient = next(leaf for leaf in jax.tree.leaves(cotangents) if leaf.size and leaf.dtype != jax.dtypes.float0)
        *others, x = args
        return jax.vjp(function, *others, x + 0 * gradient.ravel()[0].astype(x.dtype))[1](cotangents)

    run.defvjp(lambda *args: (function(*args), args), backward)
    return run
