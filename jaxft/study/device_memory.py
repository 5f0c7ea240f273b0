"""Memory of a device: the limit for a study, out-of-memory errors, and dropping compiled programs."""

import gc
import os
from pathlib import Path

import jax

MAX_MEMORY_MAPS = 30_000  # of this process; Linux allows 65,530 by default


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether the error says that the device ran out of memory, at compilation or at run time."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def free_bytes() -> float:
    """Returns the bytes that the programs of a study may take on one device.

    This is three quarters of the device memory, or half of the machine memory if the device does not report its limit.
    It does not depend on current memory use, so the same machine runs the same number of trials together again.
    """
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return 0.75 * stats["bytes_limit"]
    return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def drop_compiled_programs() -> None:
    """Drops the compiled programs of this process if it has more than `MAX_MEMORY_MAPS` memory maps.

    One compiled program can take several thousand maps, and XLA aborts the process if no map is free. Programs that are
    needed again are read from the compile cache.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAX_MEMORY_MAPS:
        jax.clear_caches()
        gc.collect()
