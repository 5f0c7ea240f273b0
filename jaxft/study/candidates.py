"""The executors that may run a group's trials: the one that is asked for, or those that 'auto' chooses from."""

import jax

from jaxft.config import Execution
from jaxft.core.devices import num_cores
from jaxft.study.executors import EXECUTORS, DataParallel, Devices, Executor, Sequential, Vmap, Workers, Workload


def candidates(workload: Workload) -> list[Executor]:
    """Returns the executors that may run a workload.

    Raises:
      UserError: the one that is asked for cannot run here.
    """
    name = workload.execution.executor
    return automatic(workload) if name == "auto" else [EXECUTORS[name].value.fit(workload)]


def automatic(workload: Workload) -> list[Executor]:
    """Returns the executors that are worth a try on this machine, the simplest first."""
    num_trials = workload.num_trials
    if jax.default_backend() == "cpu" and not workload.heads_only:
        # Networks under vmap are no faster here than one after another: benchmarks/convolution.py.
        has_workers = num_trials >= (workload.execution.workers or num_cores()) > 1
        return [Sequential(), Workers()] if has_workers else [Sequential()]
    can_spread = workload.devices_of_a_batch > 1
    if num_trials == 1:
        executors: list[Executor] = [Sequential()] if not can_spread or workload.fits(Sequential()) else []
        return [*executors, DataParallel.fit(workload)] if can_spread else executors
    by_vmap = Vmap.fit(workload)
    if workload.heads_only:
        return [by_vmap]
    by_devices = [Devices.fit(workload)] if len(jax.devices()) > 1 else []
    if can_spread and by_vmap.width == 1 and not workload.fits(Sequential()):
        return [DataParallel.fit(workload)]
    return [Sequential(), by_vmap, *by_devices]


def num_workers(execution: Execution, num_trials: int) -> int:
    """Returns how many worker processes run `num_trials` trials."""
    return min(execution.workers or num_cores(), num_trials)
