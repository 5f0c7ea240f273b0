"""Executors: how the trials of a group share a machine. An executor is a class that is registered in `EXECUTORS`.

With every executor, all arrays of a trial have a leading trial axis. Frozen leaves and images have none; all trials
share them. Each computation, such as a training step, is a pure function of one trial, the same for all executors. An
executor places the arrays, compiles the function over the trial axis, and determines whether it can run on this machine
and how many trials run together.
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
# Maximum number of trials per device if `execution.width` is 0: for networks, and for heads on cached features.
MAX_WIDTH, MAX_HEADS = 32, 256


@dataclass(frozen=True)
class Executor(abc.ABC):
    """An executor: how many trials run together, on how many devices.

    The methods of this base class are for one device. Subclasses override the sharding, the compiled program and `fit`.

    Attributes:
      width: number of trials that run together, on all devices.
      num_devices: number of devices.
      name: the name of the executor in configs and records.
      in_workers: whether worker processes run the trials.
      is_repeatable: whether two runs are bit-identical; False if a program sums over devices, in any order.
    """

    width: int = 1
    num_devices: int = 1
    name: ClassVar[str]
    in_workers: ClassVar[bool] = False
    is_repeatable: ClassVar[bool] = True

    def __str__(self) -> str:
        """Returns a short description: 'vmap at width 8', 'devices at width 16 on 8 devices'."""
        words = [self.name.replace("_", " ")]
        if self.width > 1:
            words.append(f"at width {self.width}")
        if self.num_devices > 1:
            words.append(f"on {self.num_devices} devices")
        return " ".join(words)

    @classmethod
    @abc.abstractmethod
    def fit(cls, workload: "Workload") -> "Executor":
        """Returns the executor of this class with the largest width that fits the workload into memory.

        Raises:
          UserError: the executor cannot run this workload on this machine.
        """

    @property
    def trials_per_device(self) -> int:
        """Returns the number of trials on each device."""
        return self.width // self.num_devices

    def narrower(self) -> "Executor | None":
        """Returns this executor with half as many trials on each device, or None if each device has one trial."""
        return self.with_trials_per_device(self.trials_per_device // 2) if self.trials_per_device > 1 else None

    def with_trials_per_device(self, trials_per_device: int) -> "Executor":
        """Returns this executor with `trials_per_device` trials on each device."""
        return dataclasses.replace(self, width=trials_per_device * self.num_devices)

    def on_one_device(self) -> "Executor":
        """Returns an executor whose programs take the same memory per device and can report it before they run."""
        return self

    def compile(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """Returns the compiled program of a function of one trial, over a leading trial axis.

        All arguments have the trial axis, except the last `num_shared` arguments. The program may write results into
        the memory of the arguments whose indices are in `donate`. Products of float32 arrays are computed in full
        float32 precision, except inside networks with another precision.
        """
        return self.compile_batched(over_trials(true_products(function), self.width, num_shared), num_shared, donate)

    def compile_batched(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...]
    ) -> Callable[..., Any]:
        """Returns the compiled program of a function whose arguments already have the trial axis."""
        return jax.jit(function, donate_argnums=donate)

    @property
    def trial_sharding(self) -> Sharding:
        """Returns the sharding of arrays with a trial axis: on the devices that run the trials."""
        return self.sharding()

    @property
    def shared_sharding(self) -> Sharding:
        """Returns the sharding of arrays that all trials share: a copy on every device."""
        return self.sharding()

    @property
    def batch_sharding(self) -> Sharding:
        """Returns the sharding of arrays [trials, batches, images]; the images may be spread over the devices."""
        return self.trial_sharding

    def put(self, tree: Any) -> Any:
        """Returns arrays [trials, ...], placed on the devices that run the trials."""
        return jax.device_put(tree, self.trial_sharding)

    def put_shared(self, tree: Any) -> Any:
        """Returns arrays that all trials share, of any shape, copied to every device."""
        return jax.device_put(tree, self.shared_sharding)

    def put_batches(self, tree: Any) -> Any:
        """Returns arrays [trials, batches, images], placed on the devices; the images may be spread over them."""
        return jax.device_put(tree, self.batch_sharding)

    def sharding(self, *axes: str | None) -> Sharding:
        """Returns the sharding `PartitionSpec(*axes)` over the devices; without axes, a copy on each device."""
        if self.num_devices == 1:
            return SingleDeviceSharding(jax.devices()[0])
        return NamedSharding(_mesh(self.num_devices), PartitionSpec(*axes))


@dataclass(frozen=True)
class Workload:
    """The trials of a group, for the choice of an executor.

    Attributes:
      execution: the section `execution` of the config.
      num_trials: number of trials.
      batch_sizes: batch size of each phase.
      heads_only: whether only heads are trained, on cached features.
      needed_bytes: returns the bytes that the trials take on each device with an executor.
    """

    execution: Execution
    num_trials: int
    batch_sizes: Sequence[int]
    heads_only: bool
    needed_bytes: Callable[[Executor], float]

    @property
    def limit_bytes(self) -> float:
        """Returns the bytes that the trials may take on each device."""
        return self.execution.memory_bytes or free_bytes()

    @property
    def max_trials_per_device(self) -> int:
        """Returns the largest number of trials on a device if memory were unlimited."""
        return min(self.execution.width or (MAX_HEADS if self.heads_only else MAX_WIDTH), self.num_trials)

    @property
    def max_batch_devices(self) -> int:
        """Returns the largest number of devices that divides the batch sizes of all phases."""
        devices = range(len(jax.devices()), 0, -1)
        return next(n for n in devices if all(size % n == 0 for size in self.batch_sizes))

    def fits(self, executor: Executor) -> bool:
        """Returns whether the trials fit into the device memory with `executor`."""
        return self.needed_bytes(executor) <= self.limit_bytes


# --- the executors ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequential(Executor):
    """One trial after another; the program removes the trial axis, which has length 1."""

    name = "sequential"

    @classmethod
    def fit(cls, workload: Workload) -> Executor:
        """Returns the executor; it can run everywhere."""
        return cls()


@dataclass(frozen=True)
class Workers(Sequential):
    """One trial after another in each of several processes: one process per core, one thread per process."""

    name = "workers"
    in_workers = True

    @classmethod
    def fit(cls, workload: Workload) -> Executor:
        """Returns the executor.

        Raises:
          UserError: this machine has an accelerator.
        """
        if jax.default_backend() != "cpu":
            raise UserError(
                "config field 'execution.executor' is 'workers', which needs a CPU, but JAX uses an accelerator; use "
                "'vmap' or 'devices'."
            )
        return cls()


@dataclass(frozen=True)
class Vmap(Executor):
    """Several trials as one program, under `jax.vmap`."""

    name = "vmap"

    @classmethod
    def fit(cls, workload: Workload) -> Executor:
        """Returns the executor with the largest width that fits into memory, at least 1."""
        return widest_fitting(cls(workload.max_trials_per_device), workload.needed_bytes, workload.limit_bytes)


@dataclass(frozen=True)
class Devices(Executor):
    """Several trials as one program, some on each device, by `jit` of `shard_map`."""

    name = "devices"

    @classmethod
    def fit(cls, workload: Workload) -> Executor:
        """Returns the executor on all devices, with the largest number of trials on each that fits into memory."""
        num_devices = len(jax.devices())
        trials_per_device = min(workload.max_trials_per_device, -(-workload.num_trials // num_devices))
        return widest_fitting(
            cls(num_devices * trials_per_device, num_devices), workload.needed_bytes, workload.limit_bytes
        )

    @property
    def trial_sharding(self) -> Sharding:
        """Returns the sharding of arrays with a trial axis: spread over the devices."""
        return self.sharding(AXIS)

    def compile(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """Returns the compiled program of a function of one trial; the trials are spread over the devices."""
        return self.compile_batched(
            over_trials(true_products(function), self.trials_per_device, num_shared), num_shared, donate
        )

    def compile_batched(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...]
    ) -> Callable[..., Any]:
        """Returns the program of all devices from a function of the trials of one device."""
        mesh = _mesh(self.num_devices)

        @functools.wraps(function)
        def sharded(*args: Any) -> Any:
            specs = (PartitionSpec(AXIS),) * (len(args) - num_shared) + (PartitionSpec(),) * num_shared
            return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)(
                *args
            )

        return jax.jit(sharded, donate_argnums=donate)


@dataclass(frozen=True)
class Pmap(Devices):
    """Several trials as one program, some on each device, by `jax.pmap`."""

    name = "pmap"

    def on_one_device(self) -> Executor:
        """Returns the `vmap` executor that each device runs."""
        return Vmap(self.trials_per_device)

    def compile_batched(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...]
    ) -> Callable[..., Any]:
        """Returns the program of all devices from a function of the trials of one device; it ignores `donate`."""

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
    """One trial after another, each batch spread over the devices; batch norm uses the whole batch."""

    name = "data_parallel"
    is_repeatable = False

    @classmethod
    def fit(cls, workload: Workload) -> Executor:
        """Returns the executor on the largest number of devices that divides the batch sizes.

        Raises:
          UserError: several devices are available, but no number of devices above 1 divides all batch sizes.
        """
        num_devices, num_available = workload.max_batch_devices, len(jax.devices())
        if num_devices == 1 < num_available:
            sizes = ", ".join(map(str, dict.fromkeys(workload.batch_sizes)))
            raise UserError(
                f"config field 'execution.executor' is 'data_parallel', but no number of devices from 2 to "
                f"{num_available} divides the batch sizes {sizes}; choose a 'training.batches.size' that is a multiple "
                "of the number of devices."
            )
        return cls(1, num_devices)

    @property
    def batch_sharding(self) -> Sharding:
        """Returns the sharding of arrays [trials, batches, images]: the images are spread over the devices."""
        return self.sharding(None, None, AXIS)

    def compile_batched(
        self, function: Callable[..., Any], num_shared: int, donate: tuple[int, ...]
    ) -> Callable[..., Any]:
        """Returns the compiled program; its results are copied to every device."""
        return jax.jit(function, donate_argnums=donate, out_shardings=self.sharding())


EXECUTORS.register("sequential", Sequential, help="one trial after another")
EXECUTORS.register("workers", Workers, help="one trial after another in each process, one process per CPU core")
EXECUTORS.register("vmap", Vmap, help="several trials as one program")
EXECUTORS.register("devices", Devices, help="several trials as one program, some on each device")
EXECUTORS.register("pmap", Pmap, help="several trials as one program, some on each device, by jax.pmap")
EXECUTORS.register("data_parallel", DataParallel, help="one trial after another, each batch spread over the devices")


def create_executor(name: str, width: int = 1, num_devices: int = 1) -> Executor:
    """Returns the executor that is registered as `name`.

    Raises:
      UserError: no executor has this name.
    """
    return EXECUTORS[name].value(width, num_devices)


@functools.cache
def _mesh(num_devices: int) -> Mesh:
    return Mesh(np.asarray(jax.devices()[:num_devices]), (AXIS,))


def over_trials(function: Callable[..., Any], width: int, num_shared: int) -> Callable[..., Any]:
    """Returns the function of one trial, extended to a leading trial axis of length `width`.

    All arguments and results have the trial axis, except the last `num_shared` arguments.
    """
    if width > 1:

        @functools.wraps(function)
        def batched(*args: Any) -> Any:
            axes = (0,) * (len(args) - num_shared) + (None,) * num_shared
            return jax.vmap(function, in_axes=axes)(*args)

        return batched

    @functools.wraps(function)
    def unbatched(*args: Any) -> Any:
        trial_args, shared = args[: len(args) - num_shared], args[len(args) - num_shared :]
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], trial_args), *shared))

    return unbatched


def widest_fitting(executor: Executor, needed_bytes: Callable[[Executor], float], limit_bytes: float) -> Executor:
    """Returns `executor` with its number of trials per device reduced to fit `limit_bytes`; it keeps at least one."""
    while executor.trials_per_device > 1 and (needed := needed_bytes(executor)) > limit_bytes:
        executor = executor.with_trials_per_device(
            int(executor.trials_per_device * limit_bytes / needed) or executor.trials_per_device // 2
        )
    return executor
