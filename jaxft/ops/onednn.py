"""oneDNN's convolutions for XLA on a CPU: where the library is, and the handler that XLA calls, compiled on first use.

The library comes from PyPI (`onednn-cpu-gomp`: Linux on x86-64). `onednn.cc` is compiled by the system's C++ compiler
against the headers of the installed jaxlib and oneDNN, and kept in a folder of the user alone. Where anything of this
is missing, `load` raises `Unavailable` with the reason, and convolutions are XLA's own.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import jax
import numpy as np

from jaxft.devices import num_cores
from jaxft.store import cache_dir

SOURCE = Path(__file__).with_suffix(".cc")
LIBRARY, HEADERS = "onednn-cpu-gomp", "onednn-devel-cpu-gomp"
COMPILE_SECONDS = 120.0
ISAS = {  # dnnl_cpu_isa_t
    0x1: "sse41",
    0x3: "avx",
    0x7: "avx2",
    0xF: "avx2_vnni",
    0x1F: "avx2_vnni_2",
    0x27: "avx512_core",
    0x67: "avx512_core_vnni",
    0xE7: "avx512_core_bf16",
    0x1EF: "avx512_core_fp16",
    0xFEF: "avx512_core_amx",
    0x1FEF: "avx512_core_amx_fp16",
}


class Unavailable(Exception):
    """oneDNN cannot be used here; the message says why."""


@dataclass(frozen=True)
class Library:
    """oneDNN, loaded and registered with XLA.

    Attributes:
      target: name of XLA's custom call. It changes with the handler, so that a program compiled for another handler is
        never found in a cache.
      version: oneDNN's version.
      isa: the instruction set that it uses.
      num_threads: threads of one call.
    """

    target: str
    version: str
    isa: str
    num_threads: int
    _handler: ctypes.CDLL

    def supports(self, geometry: np.ndarray) -> bool:
        """Returns whether oneDNN has a fast implementation for a geometry (`onednn.cc` lists its int64 numbers)."""
        numbers = (ctypes.c_int64 * len(geometry))(*geometry.tolist())
        return self._handler.jaxft_prepare(numbers, len(geometry)) == 0


def load() -> Library:
    """Returns oneDNN, compiled where needed, loaded and registered with XLA once a process.

    Raises:
      Unavailable: it cannot be used in this process.
    """
    library, reason = _loaded()
    if library is None:
        raise Unavailable(reason)
    return library


@functools.cache
def _loaded() -> tuple[Library | None, str]:
    try:
        if not is_supported_platform():
            raise Unavailable("oneDNN is used on Linux with an x86-64 processor only")
        dnnl, headers = _find()
        key = _key()
        path = _compiled(key, dnnl, headers)
        return _register(f"jaxft_convolve_{key}", dnnl, path), ""
    except Unavailable as reason:
        return None, str(reason)
    except OSError as error:  # a read-only or full disk, a folder that permits no programs, no libgomp.so.1
        return None, str(error)


def is_supported_platform() -> bool:
    """Returns whether there is a package of oneDNN for this system and processor."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def num_threads() -> int:
    """Returns the threads of one call: the cores of this process, shared by the CPU devices that it plays."""
    cores = num_cores()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        cores = min(cores, int(asked))
    return max(cores // jax.local_device_count(backend="cpu"), 1)


def _find() -> tuple[Path, Path]:
    """Returns the shared library of oneDNN and the folder of its headers."""
    try:
        library = _file_of(LIBRARY, "libdnnl.so.3")
        return library, _file_of(HEADERS, "oneapi/dnnl/dnnl.hpp").parents[2]
    except PackageNotFoundError as error:
        raise Unavailable(f"the package {error.name} is not installed") from None


def _file_of(package: str, end: str) -> Path:
    for file in distribution(package).files or ():
        path = Path(os.path.normpath(file.locate()))
        if path.as_posix().endswith(f"/{end}") and path.is_file():
            return path
    raise Unavailable(f"{end} of the package {package} is missing")


def _key() -> str:
    """Returns what names the compiled handler: all that it is made of."""
    parts = [SOURCE.read_bytes(), *(version(package).encode() for package in ("jaxlib", LIBRARY, HEADERS))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compiled(key: str, dnnl: Path, headers: Path) -> Path:
    """Returns the compiled handler, which is compiled first where it is not there yet."""
    folder = cache_dir() / "onednn"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{key}.so"
    _check_owned(folder, stat.S_ISDIR)
    with _locked(folder / "lock"):
        if not path.exists():
            _compile(path, dnnl, headers)
    _check_owned(path, stat.S_ISREG)
    return path


def _check_owned(path: Path, is_kind: Callable[[int], bool]) -> None:
    """Raises `Unavailable` unless `path` is this user's, and nobody else may read or write it."""
    status = path.lstat()
    if not is_kind(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise Unavailable(f"{path} is not a file or folder of this user alone (mode 0700)")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(path: Path, dnnl: Path, headers: Path) -> None:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        raise Unavailable("there is no C++ compiler, such as g++")
    number, name = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(number)
    temporary = Path(name)
    try:
        words = [compiler, "-O2", "-std=c++17", "-shared", "-fPIC", f"-I{jax.ffi.include_dir()}", f"-I{headers}"]
        ran = subprocess.run(
            [*words, str(SOURCE), str(dnnl), "-o", name], capture_output=True, text=True, timeout=COMPILE_SECONDS
        )
        if ran.returncode:
            error = next((line for line in ran.stderr.splitlines() if "error" in line), f"exit code {ran.returncode}")
            raise Unavailable(f"{compiler} failed: {error}")
        temporary.chmod(0o700)
        temporary.replace(path)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{compiler} took more than {COMPILE_SECONDS:.0f} seconds") from None
    finally:
        temporary.unlink(missing_ok=True)


def _register(target: str, dnnl: Path, path: Path) -> Library:
    # The handler asks for `libdnnl.so.3`, which is the one that is loaded already, wherever it lies.
    ctypes.CDLL(str(dnnl))
    handler = ctypes.CDLL(str(path))
    threads = num_threads()
    numbers, isa = (ctypes.c_int * 3)(), ctypes.c_int()
    if handler.jaxft_begin(threads, numbers, ctypes.byref(isa)):
        raise Unavailable("oneDNN does not start")
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler.jaxft_convolve), platform="cpu")
    return Library(target, ".".join(map(str, numbers)), ISAS.get(isa.value, hex(isa.value)), threads, handler)
