"""Devices and cores of this process, and command lines and environment variables for new processes."""

import contextlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DETERMINISTIC_FLAG = "--xla_gpu_deterministic_ops=true"
CUDA_PACKAGES = ("jax-cuda12-plugin", "jax-cuda13-plugin")
# Imports jaxft from a folder without making other modules of this folder importable, and calls a function of jaxft.
CALL = """
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
folder, module, function, *arguments = sys.argv[1:]
spec = PathFinder.find_spec("jaxft", [folder])
sys.modules["jaxft"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
getattr(import_module(module), function)(*arguments)
"""


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(core_numbers()) or os.cpu_count() or 1


def core_numbers() -> list[int]:
    """Returns the indices of the CPU cores that this process may use; an empty list if the system does not know."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def device_kind() -> str:
    """Returns the name of the JAX device. For a CPU, it is the name of the processor, without the number of cores."""
    import jax

    return _processor() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def device_name() -> str:
    """Returns the key of compiled programs: device, number of CPU cores, and version of jaxlib."""
    import jax

    cores = f", {num_cores()} cores" if jax.default_backend() == "cpu" else ""
    return f"{device_kind()}{cores}, jaxlib {version('jaxlib')}"


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


def child_command(module: str, function: str, *arguments: str) -> list[str]:
    """Returns the command line of a new Python process that calls a function of jaxft.

    The child imports the same jaxft as this process, installed or not. It imports nothing from the current folder, so
    that a file such as `json.py` there does not replace a module of Python.

    Args:
      module: the module of the function, such as 'jaxft.study.worker'.
      function: the name of the function.
      arguments: the arguments of the function.
    """
    flag = "-I" if sys.flags.isolated else "-P"
    return [sys.executable, flag, "-c", CALL, str(Path(__file__).parents[2]), module, function, *arguments]


def fast_environment() -> dict[str, str]:
    """Returns the environment variables that make programs on a CPU fast, except those that this process has.

    The C library and OpenMP read them when a process starts:

    - `GLIBC_TUNABLES` enables large pages, because XLA allocates temporary memory at every step.
    - `GOMP_SPINCOUNT` shortens the wait of idle OpenMP threads, which otherwise take the cores from XLA.
    """
    wanted = {}
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" not in tunables:
        wanted["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, "glibc.malloc.hugetlb=1")))
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        wanted["GOMP_SPINCOUNT"] = "1000"
    return wanted


def deterministic_environment() -> dict[str, str]:
    """Returns the environment variables that make runs bit-identical, except those that this process has.

    XLA on a GPU then avoids operations with a varying order of addition, and does not select kernels by timing. It
    reads the flags when a process starts. CPUs and TPUs need no flags.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC_FLAG in flags or not any(map(_is_installed, CUDA_PACKAGES)):
        return {}
    return {"XLA_FLAGS": f"{flags} {DETERMINISTIC_FLAG}".strip()}


def _is_installed(package: str) -> bool:
    with contextlib.suppress(PackageNotFoundError):
        return bool(version(package))
    return False
