"""What this process runs on, and what a process of jaxft should be started with."""

import contextlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DETERMINISTIC_FLAG = "--xla_gpu_deterministic_ops=true"
CUDA_PACKAGES = ("jax-cuda12-plugin", "jax-cuda13-plugin")
# Imports jaxft from one folder, of which nothing else can be imported, and calls a function of one of its modules.
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
    """Returns how many CPU cores this process may use."""
    return len(core_numbers()) or os.cpu_count() or 1


def core_numbers() -> list[int]:
    """Returns the numbers of the CPU cores that this process may use; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def device_kind() -> str:
    """Returns the name of JAX's device; of a CPU the processor's name, whatever the number of its cores."""
    import jax

    return _processor() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def device_name() -> str:
    """Returns what a compiled program depends on: the device, the number of cores of a CPU, and XLA's version."""
    import jax

    cores = f", {num_cores()} cores" if jax.default_backend() == "cpu" else ""
    return f"{device_kind()}{cores}, jaxlib {version('jaxlib')}"


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


def child_command(module: str, function: str, *arguments: str) -> list[str]:
    """Returns the command line of a new Python process that calls a function of jaxft with strings as its arguments.

    The child imports the same jaxft as this process, even where it is not installed. Nothing is imported from the
    current folder: a `json.py` of the user there is not Python's.
    """
    flag = "-I" if sys.flags.isolated else "-P"
    return [sys.executable, flag, "-c", CALL, str(Path(__file__).parents[2]), module, function, *arguments]


def fast_environment() -> dict[str, str]:
    """Returns the environment variables with which programs on a CPU run fastest, where this process lacks them.

    The C library and OpenMP read them when a process starts:

    - `GLIBC_TUNABLES`: XLA asks the system for its temporary memory at every step, and large pages come sooner.
    - `GOMP_SPINCOUNT`: OpenMP's threads soon sleep after a convolution, and leave the cores to XLA's threads.
    """
    wanted = {}
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" not in tunables:
        wanted["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, "glibc.malloc.hugetlb=1")))
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        wanted["GOMP_SPINCOUNT"] = "1000"
    return wanted


def deterministic_environment() -> dict[str, str]:
    """Returns the environment variables with which a run can be repeated bit for bit, where this process lacks them.

    XLA on a GPU then has no operations that add in a varying order, and does not choose among kernels by timing. It
    reads its flags when it starts. CPUs and TPUs need none.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC_FLAG in flags or not any(map(_is_installed, CUDA_PACKAGES)):
        return {}
    return {"XLA_FLAGS": f"{flags} {DETERMINISTIC_FLAG}".strip()}


def _is_installed(package: str) -> bool:
    with contextlib.suppress(PackageNotFoundError):
        return bool(version(package))
    return False
