"""Change of batch-norm layers: scale, bias, running mean and running variance, each on its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.analysis.alignment import aligned
from jaxft.ops.precision import at_least_float32

COLLECTIONS = ("params", "batch_stats", "state")
# The ends of leaf names in Flax, Haiku, and Equinox and PyTorch.
NAMES: Mapping[str, Sequence[str]] = {
    "scale": ("scale", "weight"),
    "bias": ("bias", "offset"),
    "mean": ("mean", "running_mean", "~/mean_ema/average"),
    "log_variance": ("var", "running_var", "~/var_ema/average"),
}


def batch_norm_shifts(
    before: Any, after: Any, own_starts: bool = False, names: Mapping[str, Sequence[str]] = NAMES
) -> dict[str, dict[str, jax.Array]]:
    """Returns {layer: {quantity: shift}}, with a value for each channel, [channels], or [R, channels] for R runs.

    The shifts are gamma - gamma0 ('scale'), beta - beta0 ('bias'), mu - mu0 ('mean') and log(var / var0)
    ('log_variance'). A layer is a batch norm if it has a running mean and a running variance. A layer without scale or
    bias has no such shift. The log of a negative variance is nan.

    Args:
      before: the variables of a network: parameters and statistics, such as {'params': ..., 'batch_stats': ...} of
        Flax, {'params': ..., 'state': ...} of Haiku, or tensors by name of PyTorch.
      after: the same tree for one run, or with a leading axis of R runs on every leaf.
      own_starts: whether both trees have the axis of runs, so that each run has its own start.
      names: the ends of the names of the leaves, for each of the four quantities.

    Raises:
      ValueError: the trees do not have the same leaves and shapes.
    """
    w0, w, has_runs = aligned(before, after, own_starts)
    layers: dict[str, dict[str, jax.Array]] = {}
    for name, leaf in w.items():
        for quantity, layer in _roles(name, names):
            start, end = at_least_float32(w0[name] if own_starts else w0[name][None]), at_least_float32(leaf)
            shift = jnp.log(end / start) if quantity == "log_variance" else end - start
            layers.setdefault(layer, {})[quantity] = shift if has_runs else shift[0]
    return {
        layer: {quantity: shifts[quantity] for quantity in names if quantity in shifts}
        for layer, shifts in layers.items()
        if {"mean", "log_variance"} <= shifts.keys()
    }


def rms_shifts(shifts: Mapping[str, Mapping[str, jax.Array]]) -> dict[str, dict[str, jax.Array]]:
    """Returns the root mean square over the channels, [] or [R], of each shift [..., channels]."""
    return jax.tree.map(lambda shift: jnp.sqrt(jnp.mean(shift**2, -1)), {k: dict(v) for k, v in shifts.items()})


def _roles(name: str, names: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Returns the quantities that a leaf can be, each with the name of its layer, without the collection."""
    path = name if "/" in name else name.replace(".", "/")
    first, _, rest = path.partition("/")
    path = rest if first in COLLECTIONS and "/" in rest else path
    pairs = ((quantity, end) for quantity, ends in names.items() for end in ends)
    return [(quantity, path.removesuffix(f"/{end}")) for quantity, end in pairs if path.endswith(f"/{end}")]
