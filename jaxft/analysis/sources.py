"""Trees of weights that are loaded one after the other, so that more runs can be compared than fit into memory."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.analysis.alignment import has_axis_of_runs
from jaxft.analysis.compiled_changes import compiled_changes
from jaxft.analysis.parameters import changes
from jaxft.analysis.sums import ChangesByLevel, map_changes
from jaxft.core.errors import UserError
from jaxft.core.mapped import map_safetensors
from jaxft.core.paths import float_leaves

BLOCK_BYTES = 1_000_000_000  # of the runs that are compared together, so that w0 is read once for all of them
MAX_BLOCK = 32
Source = Any  # a tree of arrays, a function without arguments that returns one, or the path of a safetensors file


def load_source(source: Source) -> dict[str, Any]:
    """Returns the floating-point leaves of a source by name: {name: array}; those of a file are read when used.

    Args:
      source: a tree of arrays, a function without arguments that returns a tree, or the path of a safetensors file.

    Raises:
      UserError: a path is not a safetensors file.
    """
    if isinstance(source, str | os.PathLike):
        from safetensors import SafetensorError

        try:
            return float_leaves(map_safetensors(source))
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{os.fspath(source)!r} cannot be read as a safetensors file: {error}; for other formats, give a "
                "function that returns the tree."
            ) from None
    # An Equinox module can be called, but is a tree.
    is_function = callable(source) and jax.tree_util.all_leaves([source])
    return float_leaves(source() if is_function else source)


def load_ahead(sources: Iterable[Source]) -> Iterator[dict[str, Any]]:
    """Yields the leaves of each source by name. A thread loads the next source meanwhile, so two are in memory."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for source in sources:
            following = pool.submit(load_source, source)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def streamed_changes(before: Any, sources: Iterable[Source], filter_axis: int = -1) -> ChangesByLevel:
    """Returns the result of `parameters.changes` for runs that are loaded one after the other.

    Args:
      before: a tree of arrays, w0.
      sources: R runs; each is a tree, a function that returns a tree, or the path of a safetensors file.
      filter_axis: the axis of the output channels: -1 in Flax and Haiku, 0 in Equinox and PyTorch.

    Returns:
      {'layer', 'leaf', 'filter': {name: Change}}, where every value is a NumPy array with a leading axis [R].

    Raises:
      ValueError: there are no runs, or a run does not have the leaves and shapes of `before`.
    """
    w0 = load_source(before)
    tree_bytes = sum(leaf.nbytes for leaf in w0.values())
    block_size = min(max(BLOCK_BYTES // max(tree_bytes, 1), 1), MAX_BLOCK)
    blocks = [_changes_of(w0, block, filter_axis) for block in _blocks(load_ahead(sources), block_size)]
    if not blocks:
        raise ValueError("there are no runs to compare.")
    return map_changes(lambda *values: np.concatenate(values), *blocks)


def _blocks(runs: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while block := list(itertools.islice(runs, size)):
        yield block


def _changes_of(w0: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], filter_axis: int) -> ChangesByLevel:
    """Returns the result of `parameters.changes` for several runs, each a dict of leaves [...] by name."""
    for run in runs:
        if has_axis_of_runs(w0, run, own_starts=False):
            raise ValueError("a run has an axis of runs; give every run as one tree.")
    together = {name: [run[name] for run in runs] for name in w0}
    compiled = compiled_changes(w0, together, own_starts=False, filter_axis=filter_axis)
    if compiled is not None:
        return compiled
    separate = jax.device_get([changes(w0, run, filter_axis=filter_axis) for run in runs])
    return map_changes(lambda *values: np.stack(values), *separate)


def shard_runs(after: Any, devices: Iterable[Any] | None = None) -> Any:
    """Returns a tree of arrays [R, ...] whose runs are distributed over devices, for all functions of stacked runs.

    The number of devices that are used is the largest one that divides R.

    Args:
      after: a tree of arrays [R, ...].
      devices: the devices; if None, all devices of this process.

    Raises:
      ValueError: there are no arrays, or the leaves have different numbers of runs.
    """
    num_runs = {np.shape(leaf)[:1] for leaf in float_leaves(after).values()}
    if len(num_runs) != 1 or num_runs == {()}:
        raise ValueError(f"every leaf needs the same leading axis of runs; the leading axes are {sorted(num_runs)}.")
    available = list(jax.local_devices() if devices is None else devices)
    ((count,),) = num_runs
    width = max(n for n in range(1, len(available) + 1) if count % n == 0)
    sharding = NamedSharding(Mesh(np.array(available[:width]), ("runs",)), PartitionSpec("runs"))
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding) if np.shape(leaf)[:1] == (count,) else leaf, after)


def stack_runs(runs: Iterable[Mapping[str, Any]]) -> dict[str, jax.Array]:
    """Returns the leaves of several runs, [...] each, as arrays [R, ...] by name."""
    leaves = list(runs)
    return {name: jnp.stack([jnp.asarray(run[name]) for run in leaves]) for name in leaves[0]}
