"""The way of a batch through the network, from the frozen prefix to the logits."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxft.core.paths import flatten, unflatten
from jaxft.models.layers import batch_norm_in_groups
from jaxft.ops.precision import compute_dtype
from jaxft.training.phases import Evaluated, Phase
from jaxft.training.state import Flat, Frozen


class Pass(NamedTuple):
    """A pass through the network.

    Logits [n, classes]; the tracked statistics after it; what entered the first unit above the frozen prefix; the
    outputs of the units that were asked for.
    """

    logits: jax.Array
    batch_stats: Flat
    entering: jax.Array
    outputs: Flat


def apply_network(
    phase: Phase | Evaluated, params: Flat, batch_stats: Flat, frozen: Frozen, images: jax.Array, train: bool
) -> tuple[jax.Array, Flat]:
    """Returns logits [n, classes] for `images: [n, h, w, 3]` in 0 to 255, and the tracked statistics after them.

    Of `params` factors of changes are merged already (`jaxft.training.adapters`). In training these are those of
    `batch_stats`.
    """
    done = run_network(phase, params, batch_stats, frozen, images, train)
    return done.logits, done.batch_stats


def run_network(
    phase: Phase | Evaluated,
    params: Flat,
    batch_stats: Flat,
    frozen: Frozen,
    images: jax.Array,
    train: bool,
    keep: Sequence[str] = (),
    branches: Mapping[str, jax.Array] | None = None,
    before_head: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Pass:
    """Returns what `apply_network` does, and more.

    Args:
      keep: units whose outputs are wanted too.
      branches: factors of residual branches, by block.
      before_head: what is done to the output of the unit below the head, where that is among `keep`.
    """
    model = phase.model
    x, start, stats = enter_network(phase, batch_stats, frozen, images)
    entering, outputs = x, {}
    if start is None:
        return Pass(x, batch_stats, x, {})
    variables = {"params": unflatten(frozen.params | params)}
    if branches:
        variables["branches"] = unflatten({f"{block}/factor": factor for block, factor in branches.items()})
    group_size = phase.virtual_batch_size if isinstance(phase, Phase) else None

    def apply(variables: Any, x: jax.Array, start: str, stop: str) -> tuple[jax.Array, Any]:
        if not (train and batch_stats):
            return model.apply(variables, x, start=start, stop=stop), {}
        with batch_norm_in_groups(group_size):
            x, updated = model.apply(variables, x, train=True, start=start, stop=stop, mutable=["batch_stats"])
        return x, updated["batch_stats"]

    def run(x: jax.Array, start: str, stop: str) -> jax.Array:
        nonlocal stats
        first, last, dtype = model.units.index(start), model.units.index(stop), x.dtype
        is_kept = train and isinstance(phase, Phase) and phase.remat
        stretches = [(unit, unit) for unit in model.units[first : last + 1]] if is_kept else [(start, stop)]
        x = x.astype(compute_dtype(model.precision, dtype))
        for begin, end in stretches:
            of_units: Callable[..., Any] = functools.partial(apply, start=begin, stop=end)
            if is_kept:
                of_units = rematerialized(of_units)
            x, updated = of_units(variables | {"batch_stats": unflatten(stats)}, x)
            stats = stats | flatten(updated)
        return x.astype(dtype)

    units, head, features = model.units, model.head, model.feature_block
    if start == head and features in keep:
        outputs[features] = x
    for unit in units[units.index(start) : units.index(head)]:
        if unit in keep:
            outputs[unit] = x = run(x, start, unit)
            start = units[units.index(unit) + 1]
    logits = run(before_head(x) if features in keep else x, start, head)
    return Pass(logits, {name: stats[name] for name in batch_stats}, entering, outputs)


def enter_network(
    phase: Phase | Evaluated, batch_stats: Flat, frozen: Frozen, images: jax.Array
) -> tuple[jax.Array, str | None, Flat]:
    """Returns what enters the first unit above the frozen prefix, that unit (none: there is none), all statistics."""
    model = phase.model
    x = images if phase.from_features else phase.preprocessing.apply(images)
    stats = frozen.batch_stats | batch_stats
    if phase.prefix is None:
        return x, model.units[0], stats
    if not phase.from_features:
        fixed = {"params": unflatten(frozen.params), "batch_stats": unflatten(stats)}
        x = jax.lax.stop_gradient(model.apply(fixed, x, stop=phase.prefix))
    above = model.units[model.units.index(phase.prefix) + 1 :]
    return x, above[0] if above else None, stats


def rematerialized(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` of arrays, of which a gradient keeps the arguments alone (Chen et al. 2016, section 3).

    It is computed again after what follows it has its gradient, on which the last argument is made to depend: XLA on a
    CPU drops the barriers with which `jax.checkpoint` says so, and may then compute everything at once.
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
