"""Executors: how the trials of a group share a machine.

Every array of a trial has a leading trial axis, whatever the executor; frozen leaves and images have none and are
shared. What runs one trial is the same pure function everywhere:

    in_turn        one after another; the axis, of length 1, is taken off inside the program
    workers        the same, in one process a core, each with a thread of its own
    vmap           several as one program
    devices        several as one program, some on each device (`jit` of `shard_map`, `NamedSharding`)
    pmap           the same by `pmap`, for batch runs that still use it
    data_parallel  one after another, the images of a batch spread over the devices; batch norm is over all of them
"""

import dataclasses
import functools
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxft.config import Execution
from jaxft.core.devices import num_cores
from jaxft.core.errors import UserError
from jaxft.ops.precision import true_products

AXIS = "devices"
MANY_MAPS = 30_000


@dataclass(frozen=True)
class Executor:
    """An executor by name, with how many trials run side by side, on how many devices.

    With 'devices' and 'pmap' the width is a multiple of the devices.
    """

    name: str = "in_turn"
    width: int = 1
    num_devices: int = 1

    def __str__(self) -> str:
        """Returns it in a few words: 'vmap at width 8', 'devices at width 16 on 8 devices'."""
        words = [self.name.replace("_", " ")]
        if self.width > 1:
            words.append(f"at width {self.width}")
        if self.num_devices > 1:
            words.append(f"on {self.num_devices} devices")
        return " ".join(words)

    def narrower(self) -> "Executor | None":
        """Returns it with half as many trials on each device; None where there is one on each."""
        lanes = self.width // self.num_devices
        return dataclasses.replace(self, width=lanes // 2 * self.num_devices) if lanes > 1 else None

    def compile(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """Returns `function`, of one trial, over a leading axis of trials on all arguments but the last `num_shared`.

        The arguments numbered in `donate` are given up to the program, which writes its results in their place.
        Products of float32 arrays are true ones, but inside networks that have another precision.
        """
        function = true_products(function)
        if self.name == "pmap":
            return self._pmapped(function, num_shared)
        local = over_trials(function, self.width // (self.num_devices if self.name == "devices" else 1), num_shared)
        if self.name == "devices":
            mesh = _mesh(self.num_devices)

            @functools.wraps(function)
            def spread(*args: Any) -> Any:
                specs = (PartitionSpec(AXIS),) * (len(args) - num_shared) + (PartitionSpec(),) * num_shared
                return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)(
                    *args
                )

            return jax.jit(spread, donate_argnums=donate)
        if self.name == "data_parallel":
            return jax.jit(local, donate_argnums=donate, out_shardings=self._sharding())
        return jax.jit(local, donate_argnums=donate)

    def _pmapped(self, function: Callable[..., Any], num_shared: int) -> Callable[..., Any]:
        local = over_trials(function, self.width // self.num_devices, num_shared)

        @functools.cache
        def mapped(num_own: int) -> Callable[..., Any]:
            axes = (0,) * num_own + (None,) * num_shared
            return jax.pmap(local, AXIS, in_axes=axes, devices=jax.devices()[: self.num_devices])

        def run(*args: Any) -> Any:
            num_own = len(args) - num_shared
            apart = jax.tree.map(lambda x: jnp.reshape(x, (self.num_devices, -1, *x.shape[1:])), args[:num_own])
            apart = jax.device_put(apart, self._sharding(AXIS))
            result = mapped(num_own)(*apart, *args[num_own:])
            return jax.tree.map(lambda x: jnp.reshape(x, (self.width, *x.shape[2:])), result)

        return run

    @property
    def of_trials(self) -> Sharding:
        """Returns where arrays with a trial axis are: on the devices that run their trials."""
        return self._sharding(AXIS) if self.name in ("devices", "pmap") else self._sharding()

    @property
    def of_all(self) -> Sharding:
        """Returns where arrays are that all trials share: on every device."""
        return self._sharding()

    @property
    def of_batches(self) -> Sharding:
        """Returns where arrays [trials, batches, images] are, whose images may be spread over the devices."""
        return self._sharding(None, None, AXIS) if self.name == "data_parallel" else self.of_trials

    def place(self, tree: Any) -> Any:
        """Returns arrays with a trial axis, on the devices that run their trials."""
        return jax.device_put(tree, self.of_trials)

    def place_shared(self, tree: Any) -> Any:
        """Returns arrays that all trials share, on every device."""
        return jax.device_put(tree, self.of_all)

    def place_batches(self, tree: Any) -> Any:
        """Returns arrays [trials, batches, images], whose images may be spread over the devices."""
        return jax.device_put(tree, self.of_batches)

    def _sharding(self, *axes: str | None) -> Sharding:
        if self.num_devices == 1:
            return SingleDeviceSharding(jax.devices()[0])
        return NamedSharding(_mesh(self.num_devices), PartitionSpec(*axes))


@functools.cache
def _mesh(num_devices: int) -> Mesh:
    return Mesh(np.asarray(jax.devices()[:num_devices]), (AXIS,))


def over_trials(function: Callable[..., Any], width: int, num_shared: int) -> Callable[..., Any]:
    """Returns `function` over a leading trial axis of `width`, on all arguments but the last `num_shared`."""
    if width > 1:

        @functools.wraps(function)
        def batched(*args: Any) -> Any:
            axes = (0,) * (len(args) - num_shared) + (None,) * num_shared
            return jax.vmap(function, in_axes=axes)(*args)

        return batched

    @functools.wraps(function)
    def alone(*args: Any) -> Any:
        own, shared = args[: len(args) - num_shared], args[len(args) - num_shared :]
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], own), *shared))

    return alone


# --- the choice -------------------------------------------------------------------------------------------------


MOST_WIDTH = 32  # of networks under one vmap, where the width is left to us
MOST_HEADS = 256  # of heads alone


def candidates(
    execution: Execution,
    num_trials: int,
    batch_sizes: Sequence[int],
    heads_only: bool,
    needed_bytes: Callable[[Executor], float],
) -> list[Executor]:
    """Returns the executors that may run `num_trials` trials: the one asked for, or those that 'auto' chooses from.

    Args:
      batch_sizes: those of the phases.
      heads_only: whether nothing is trained but heads, on kept features.
      needed_bytes: returns the memory of a device that trials take by an executor.

    Raises:
      UserError: the one asked for cannot run here.
    """
    name, on_cpu = execution.executor, jax.default_backend() == "cpu"
    if name == "workers" and not on_cpu:
        raise UserError("execution.executor is 'workers', which are for CPUs; use 'vmap' or 'devices' here.")
    if name in ("in_turn", "workers"):
        return [Executor(name)]
    devices = len(jax.devices())
    spread = next(n for n in range(devices, 0, -1) if all(size % n == 0 for size in batch_sizes))
    spread_batch = Executor("data_parallel", 1, spread)
    if name == "data_parallel":
        if spread == 1 < devices:
            sizes = ", ".join(map(str, dict.fromkeys(batch_sizes)))
            raise UserError(
                f"execution.executor is 'data_parallel', but no number from 2 to {devices} devices divides the batches "
                f"of {sizes}; choose a 'training.batches.size' that the devices divide."
            )
        return [spread_batch]
    if name == "auto" and on_cpu and not heads_only:
        # Networks under vmap are no faster here than one after another: benchmarks/convolution.py.
        return [Executor()] + [Executor("workers")] * (num_trials >= (execution.workers or num_cores()) > 1)
    limit = execution.memory_bytes or free_bytes()
    if name == "auto" and num_trials == 1:
        fits = spread == 1 or needed_bytes(Executor()) <= limit
        return [Executor()] * fits + [spread_batch] * (spread > 1)
    most = min(execution.width or (MOST_HEADS if heads_only else MOST_WIDTH), num_trials)
    found = [] if name in ("devices", "pmap") else [fitting(Executor("vmap", most), needed_bytes, limit)]
    if name in ("devices", "pmap") or (name == "auto" and devices > 1 and not heads_only):
        wide = Executor(
            "pmap" if name == "pmap" else "devices", devices * min(most, -(-num_trials // devices)), devices
        )
        found.append(fitting(wide, needed_bytes, limit))
    if name != "auto" or heads_only:
        return found
    if spread > 1 and found[0].width == 1 and needed_bytes(Executor()) > limit:
        return [spread_batch]
    return [Executor(), *found]


def fitting(executor: Executor, needed_bytes: Callable[[Executor], float], limit: float) -> Executor:
    """Returns an executor with as many lanes as have room in `limit` bytes of a device, one at least."""
    while executor.width > executor.num_devices and (needed := needed_bytes(executor)) > limit:
        lanes = executor.width // executor.num_devices
        fewer = int(lanes * limit / needed) or lanes // 2
        executor = dataclasses.replace(executor, width=fewer * executor.num_devices)
    return executor


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether a program did not run, or was not compiled, for want of memory of its device."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def num_workers(execution: Execution, num_trials: int) -> int:
    """Returns how many worker processes run `num_trials` trials."""
    return min(execution.workers or num_cores(), num_trials)


def free_bytes() -> float:
    """Returns the memory that a study's programs may take: three quarters of a device's, or half of the machine's.

    It does not depend on what else is in memory, so that the same machine has the same lanes again.
    """
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return 0.75 * stats["bytes_limit"]
    return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def let_go_of_programs() -> None:
    """Lets go of what was compiled in this process where that has taken many of its maps of memory.

    Linux permits a process 65,530 by default, of which a program takes up to some thousands; where there is none left
    XLA ends the process. What is needed again is read from the compile cache.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()
