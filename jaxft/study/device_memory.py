"""Memory of a device: how much a study may take, running out of it, and letting go of compiled programs."""

import gc
import os
from pathlib import Path

import jax

MANY_MAPS = 30_000


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether a program did not run, or was not compiled, for want of memory of its device."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


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
