"""oneDNN convolutions for XLA on a CPU: the library from PyPI, and a handler that XLA calls.

On first use, the C++ compiler of the system compiles the handler (`onednn.cc`) against the headers of the installed
jaxlib and oneDNN (`jaxft.ops.native`). If something is missing, `load` raises `Unavailable`, and XLA computes the
convolutions.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import sys
import threading
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.core.devices import num_cores
from jaxft.ops import native
from jaxft.ops.native import Unavailable

if TYPE_CHECKING:
    import numpy as np

SOURCE = Path(__file__).with_suffix(".cc")
LIBRARY, HEADERS = "onednn-cpu-gomp", "onednn-devel-cpu-gomp"


@dataclass(frozen=True)
class Library:
    """The oneDNN library, registered with XLA.

    The last digits of results depend on the version, the instruction set and the number of threads.

    Attributes:
      target: name of the custom call.
      version: version of oneDNN.
      isa: instruction set of the processor that oneDNN uses.
      num_threads: number of threads of a call.
      handler: the compiled handler.
    """

    target: str
    version: str
    isa: str
    num_threads: int
    handler: ctypes.CDLL

    def supports(self, geometry: "np.ndarray") -> bool:
        """Returns whether oneDNN has a fast implementation for `geometry`: [k] int64, in the order of `onednn.cc`."""
        return self.handler.jaxft_prepare((ctypes.c_int64 * len(geometry))(*geometry.tolist()), len(geometry)) == 0


def is_supported_platform() -> bool:
    """Returns whether PyPI has a package of oneDNN for this system and processor."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def compile_ahead() -> None:
    """Starts a thread that compiles the handler if it is not compiled yet, so that `load` need not wait for it."""

    def compile_quietly() -> None:
        with contextlib.suppress(Unavailable, OSError):  # `load` reports them
            _handler()

    threading.Thread(target=compile_quietly, daemon=True).start()


def load() -> Library:
    """Returns the oneDNN library. The first call compiles the handler if necessary, loads it and registers it with XLA.

    Raises:
      Unavailable: oneDNN is not available in this process.
    """
    with _loading:
        loaded = _load_once()
    if isinstance(loaded, str):
        raise Unavailable(loaded)
    return loaded


_loading = threading.Lock()  # the first calls may come from several threads


@functools.cache
def _load_once() -> Library | str:
    """Returns the library, or the reason why it is not available."""
    import jax

    try:
        dnnl, path = _handler()
        ctypes.CDLL(str(dnnl))  # the handler then uses this `libdnnl.so.3`, which may not be on the library path
        handler = ctypes.CDLL(str(path))
    except (Unavailable, OSError) as reason:  # for example a read-only or full disk, a noexec mount, or no libgomp
        return str(reason)
    num_threads = threads_of_a_call()
    handler.jaxft_version.restype = handler.jaxft_isa.restype = ctypes.c_char_p
    if handler.jaxft_begin(num_threads):
        return "oneDNN does not start"
    target = f"jaxft_convolve_{path.stem.partition('-')[0]}"
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler.jaxft_convolve), platform="cpu")
    return Library(target, handler.jaxft_version().decode(), handler.jaxft_isa().decode(), num_threads, handler)


def threads_of_a_call() -> int:
    """Returns the number of threads of a call: the cores of this process, divided by the number of CPU devices."""
    import jax

    requested = os.environ.get("OMP_NUM_THREADS", "")
    cores = min(num_cores(), int(requested)) if requested.isdecimal() else num_cores()
    return max(cores // jax.local_device_count(backend="cpu"), 1)


def _jaxlib() -> Path:
    """Returns the folder of jaxlib, without an import of JAX."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        raise Unavailable("jaxlib is not installed")
    return Path(spec.origin).parent


def _file_of(package: str, end: str) -> Path:
    """Returns the path of a file of an installed package; the path ends in `end`."""
    try:
        paths = [Path(os.path.normpath(file.locate())) for file in distribution(package).files or ()]
    except PackageNotFoundError:
        raise Unavailable(f"the package {package} is not installed") from None
    first_match = next((path for path in paths if path.as_posix().endswith(f"/{end}") and path.is_file()), None)
    if first_match is None:
        raise Unavailable(f"{end} of the package {package} is missing")
    return first_match


def _handler() -> tuple[Path, Path]:
    """Returns the paths of oneDNN and of the handler. If the handler is missing or damaged, it is compiled first."""
    if not is_supported_platform():
        raise Unavailable("oneDNN needs Linux on an x86-64 processor")
    dnnl, headers = _file_of(LIBRARY, "libdnnl.so.3"), _file_of(HEADERS, "oneapi/dnnl/dnnl.hpp").parents[2]
    versions = [version(package) for package in ("jaxlib", LIBRARY, HEADERS)]
    arguments = ["-O1", f"-I{_jaxlib() / 'include'}", f"-I{headers}", str(dnnl)]
    return dnnl, native.compiled(SOURCE, versions, arguments)
