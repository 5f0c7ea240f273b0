"""The executors that may run the trials of a group: the requested one, or the candidates of 'auto'."""

import jax

from jaxft.config import Execution
from jaxft.core.devices import num_cores
from jaxft.study.executors import EXECUTORS, DataParallel, Devices, Executor, Sequential, Vmap, Workers, Workload


def candidates(workload: Workload) -> list[Executor]:
    """Returns the executors that may run a workload: the requested one, or the candidates of 'auto'.

    Raises:
      UserError: the requested executor cannot run this workload on this machine.
    """
    name = workload.execution.executor
    return automatic(workload) if name == "auto" else [EXECUTORS[name].value.fit(workload)]


def automatic(workload: Workload) -> list[Executor]:
    """Returns the candidates of 'auto' on this machine, the simplest first."""
    num_trials = workload.num_trials
    if jax.default_backend() == "cpu" and not workload.heads_only:
        # On a CPU, networks under vmap are no faster than sequential execution: benchmarks/convolution.py.
        has_workers = num_trials >= (workload.execution.workers or num_cores()) > 1
        return [Sequential(), Workers()] if has_workers else [Sequential()]
    can_split_batch = workload.max_batch_devices > 1
    if num_trials == 1:
        executors: list[Executor] = [Sequential()] if not can_split_batch or workload.fits(Sequential()) else []
        return [*executors, DataParallel.fit(workload)] if can_split_batch else executors
    vmap = Vmap.fit(workload)
    if workload.heads_only:
        return [vmap]
    devices = [Devices.fit(workload)] if len(jax.devices()) > 1 else []
    if can_split_batch and vmap.width == 1 and not workload.fits(Sequential()):
        return [DataParallel.fit(workload)]
    return [Sequential(), vmap, *devices]


def num_workers(execution: Execution, num_trials: int) -> int:
    """Returns how many worker processes run `num_trials` trials."""
    return min(execution.workers or num_cores(), num_trials)
