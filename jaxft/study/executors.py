"""Executors: how the trials of a group share a machine. An executor is a class and a line in `EXECUTORS`.

Every array of a trial has a leading trial axis, whatever the executor; frozen leaves and images have none and are
shared. What runs one trial is the same pure function everywhere. An executor says where arrays lie, compiles that
function over the trial axis, and knows whether it can run here, and how many trials side by side.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxft.config import Execution
from jaxft.core.errors import UserError
from jaxft.core.registries import EXECUTORS
from jaxft.ops.precision import true_products
from jaxft.study.device_memory import free_bytes

AXIS = "devices"
MOST_WIDTH = 32  # of networks under one vmap, where the width is left to us
MOST_HEADS = 256  # of heads alone


@dataclass(frozen=True)
class Executor(abc.ABC):
    """How many trials run side by side, on how many devices.

    Subclasses override what differs from running on one device: the sharding, the compiled program, the width.

    Attributes:
      name: what a config and a record call it.
      in_workers: whether worker processes run its trials, and not this process.
      is_repeatable: whether two runs give the same bits; sums over devices may come in any order.
    """

    width: int = 1
    num_devices: int = 1
    name: ClassVar[str]
    in_workers: ClassVar[bool] = False
    is_repeatable: ClassVar[bool] = True

    def __str__(self) -> str:
        """Returns it in a few words: 'vmap at width 8', 'devices at width 16 on 8 devices'."""
        words = [self.name.replace("_", " ")]
        if self.width > 1:
            words.append(f"at width {self.width}")
        if self.num_devices > 1:
            words.append(f"on {self.num_devices} devices")
        return " ".join(words)

    @classmethod
    @abc.abstractmethod
    def fit(cls, workload: "Workload") -> "Executor":
        """Returns the executor of this kind for a workload, as wide as its memory allows.

        Raises:
          UserError: it cannot run here.
        """

    @property
    def lanes(self) -> int:
        """Returns how many trials run on each device."""
        return self.width // self.num_devices

    def narrower(self) -> "Executor | None":
        """Returns it with half as many trials on each device; None where there is one on each."""
        return self.with_lanes(self.lanes // 2) if self.lanes > 1 else None

    def with_lanes(self, lanes: int) -> "Executor":
        """Returns it with so many trials on each device."""
        return dataclasses.replace(self, width=lanes * self.num_devices)

    def on_one_device(self) -> "Executor":
        """Returns an executor whose program takes the memory that this one takes of each device."""
        return self

    def compile(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """Returns `function`, of one trial, over a leading axis of trials on all arguments but the last `num_shared`.

        The arguments numbered in `donate` are given up to the program, which writes its results in their place.
        Products of float32 arrays are true ones, but inside networks that have another precision.
        """
        return self.compile_lanes(over_trials(true_products(function), self.width, num_shared), num_shared, donate)

    def compile_lanes(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...]
    ) -> Callable[..., Any]:
        """Returns the compiled program of `function`, which has the leading axis of the trials already."""
        return jax.jit(function, donate_argnums=donate)

    @property
    def trial_sharding(self) -> Sharding:
        """Returns where arrays with a trial axis are: on the devices that run their trials."""
        return self.sharding()

    @property
    def shared_sharding(self) -> Sharding:
        """Returns where arrays are that all trials share: on every device."""
        return self.sharding()

    @property
    def batch_sharding(self) -> Sharding:
        """Returns where arrays [trials, batches, images] are, whose images may be spread over the devices."""
        return self.trial_sharding

    def put(self, tree: Any) -> Any:
        """Returns arrays with a trial axis, on the devices that run their trials."""
        return jax.device_put(tree, self.trial_sharding)

    def put_shared(self, tree: Any) -> Any:
        """Returns arrays that all trials share, on every device."""
        return jax.device_put(tree, self.shared_sharding)

    def put_batches(self, tree: Any) -> Any:
        """Returns arrays [trials, batches, images], whose images may be spread over the devices."""
        return jax.device_put(tree, self.batch_sharding)

    def sharding(self, *axes: str | None) -> Sharding:
        """Returns the sharding over this executor's devices of arrays with these axes; without axes a copy on each."""
        if self.num_devices == 1:
            return SingleDeviceSharding(jax.devices()[0])
        return NamedSharding(_mesh(self.num_devices), PartitionSpec(*axes))


@dataclass(frozen=True)
class Workload:
    """The trials that an executor is chosen for.

    Attributes:
      num_trials: how many there are.
      batch_sizes: those of the phases.
      heads_only: whether nothing is trained but heads, on kept features.
      needed_bytes: returns the memory of a device that the trials take by an executor.
    """

    execution: Execution
    num_trials: int
    batch_sizes: Sequence[int]
    heads_only: bool
    needed_bytes: Callable[[Executor], float]

    @property
    def limit_bytes(self) -> float:
        """Returns the memory of a device that they may take."""
        return self.execution.memory_bytes or free_bytes()

    @property
    def most_lanes(self) -> int:
        """Returns how many of them may run side by side on a device, whatever the memory."""
        return min(self.execution.width or (MOST_HEADS if self.heads_only else MOST_WIDTH), self.num_trials)

    @property
    def devices_of_a_batch(self) -> int:
        """Returns the most devices that divide the batches of all phases."""
        devices = range(len(jax.devices()), 0, -1)
        return next(n for n in devices if all(size % n == 0 for size in self.batch_sizes))

    def fits(self, executor: Executor) -> bool:
        """Tells whether the trials have room as the executor runs them."""
        return self.needed_bytes(executor) <= self.limit_bytes


# --- the executors ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequential(Executor):
    """One trial after another; the trial axis, of length 1, is taken off inside the program."""

    name = "sequential"

    @classmethod
    def fit(cls, workload: Workload) -> Executor:
        """Returns it: a trial at a time runs everywhere."""
        return cls()


@dataclass(frozen=True)
class Workers(Sequential):
    """One trial after another in each of several processes, one a core, each with a thread of its own."""

    name = "workers"
    in_workers = True

    @classmethod
    def fit(cls, workload: Workload) -> Executor:
        """Returns it. Raises a `UserError` where there is an accelerator."""
        if jax.default_backend() != "cpu":
            raise UserError("execution.executor is 'workers', which are for CPUs; use 'vmap' or 'devices' here.")
        return cls()


@dataclass(frozen=True)
class Vmap(Executor):
    """Several trials as one program, under `jax.vmap`."""

    name = "vmap"

    @classmethod
    def fit(cls, workload: Workload) -> Executor:
        """Returns it with as many trials as have room."""
        return fitting(cls(workload.most_lanes), workload.needed_bytes, workload.limit_bytes)


@dataclass(frozen=True)
class Devices(Executor):
    """Several trials as one program, some on each device: `jit` of `shard_map`, `NamedSharding`."""

    name = "devices"

    @classmethod
    def fit(cls, workload: Workload) -> Executor:
        """Returns it on all devices, with as many trials on each as have room."""
        devices = len(jax.devices())
        lanes = min(workload.most_lanes, -(-workload.num_trials // devices))
        return fitting(cls(devices * lanes, devices), workload.needed_bytes, workload.limit_bytes)

    @property
    def trial_sharding(self) -> Sharding:
        """Returns where arrays with a trial axis are: spread over the devices."""
        return self.sharding(AXIS)

    def compile(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """Returns `function` over the trial axis, whose trials are spread over the devices."""
        return self.compile_lanes(over_trials(true_products(function), self.lanes, num_shared), num_shared, donate)

    def compile_lanes(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...]
    ) -> Callable[..., Any]:
        """Returns the program of all devices, of a function of the trials of one."""
        mesh = _mesh(self.num_devices)

        @functools.wraps(function)
        def spread(*args: Any) -> Any:
            specs = (PartitionSpec(AXIS),) * (len(args) - num_shared) + (PartitionSpec(),) * num_shared
            return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)(
                *args
            )

        return jax.jit(spread, donate_argnums=donate)


@dataclass(frozen=True)
class Pmap(Devices):
    """The same as 'devices' by `jax.pmap`, for batch runs that still use it."""

    name = "pmap"

    def on_one_device(self) -> Executor:
        """Returns `vmap`: it is what a device runs."""
        return Vmap(self.lanes)

    def compile_lanes(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...]
    ) -> Callable[..., Any]:
        """Returns the program of all devices, of a function of the trials of one; nothing is given up to it."""

        @functools.cache
        def mapped(num_trial_args: int) -> Callable[..., Any]:
            axes = (0,) * num_trial_args + (None,) * num_shared
            return jax.pmap(function, AXIS, in_axes=axes, devices=jax.devices()[: self.num_devices])

        def run(*args: Any) -> Any:
            num_trial_args = len(args) - num_shared
            per_device = jax.tree.map(
                lambda x: jnp.reshape(x, (self.num_devices, -1, *x.shape[1:])), args[:num_trial_args]
            )
            per_device = jax.device_put(per_device, self.trial_sharding)
            result = mapped(num_trial_args)(*per_device, *args[num_trial_args:])
            return jax.tree.map(lambda x: jnp.reshape(x, (self.width, *x.shape[2:])), result)

        return run


@dataclass(frozen=True)
class DataParallel(Executor):
    """One trial after another, the images of a batch spread over the devices; batch norm is over all of them."""

    name = "data_parallel"
    is_repeatable = False

    @classmethod
    def fit(cls, workload: Workload) -> Executor:
        """Returns it on as many devices as divide the batches. Raises a `UserError` where no number does."""
        spread, devices = workload.devices_of_a_batch, len(jax.devices())
        if spread == 1 < devices:
            sizes = ", ".join(map(str, dict.fromkeys(workload.batch_sizes)))
            raise UserError(
                f"execution.executor is 'data_parallel', but no number from 2 to {devices} devices divides the batches "
                f"of {sizes}; choose a 'training.batches.size' that the devices divide."
            )
        return cls(1, spread)

    @property
    def batch_sharding(self) -> Sharding:
        """Returns where arrays [trials, batches, images] are: the images spread over the devices."""
        return self.sharding(None, None, AXIS)

    def compile_lanes(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...]
    ) -> Callable[..., Any]:
        """Returns the compiled program, whose results are on every device."""
        return jax.jit(function, donate_argnums=donate, out_shardings=self.sharding())


EXECUTORS.register("sequential", Sequential, help="one trial after another")
EXECUTORS.register("workers", Workers, help="one process a core, each with a thread of its own; for CPUs")
EXECUTORS.register("vmap", Vmap, help="several trials as one program")
EXECUTORS.register("devices", Devices, help="several trials as one program, some on each device")
EXECUTORS.register("pmap", Pmap, help="the same as 'devices' by jax.pmap")
EXECUTORS.register("data_parallel", DataParallel, help="each batch spread over the devices, one trial after another")


def create_executor(name: str, width: int = 1, num_devices: int = 1) -> Executor:
    """Returns the executor of a name. Raises a `UserError` where there is none."""
    return EXECUTORS[name].value(width, num_devices)


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
        trial_args, shared = args[: len(args) - num_shared], args[len(args) - num_shared :]
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], trial_args), *shared))

    return alone


def fitting(executor: Executor, needed_bytes: Callable[[Executor], float], limit_bytes: float) -> Executor:
    """Returns an executor with as many trials on each device as have room in `limit_bytes` of it, one at least."""
    while executor.lanes > 1 and (needed := needed_bytes(executor)) > limit_bytes:
        executor = executor.with_lanes(int(executor.lanes * limit_bytes / needed) or executor.lanes // 2)
    return executor
