"""oneDNN's convolutions for XLA on a CPU: the library from PyPI, and the handler that XLA calls, compiled on first use.

`onednn.cc` is compiled by the system's C++ compiler against the headers of the installed jaxlib and oneDNN, and kept in
a folder of the user alone, under a name that has the digest of its content. Where anything is missing, `load` raises
`Unavailable`, and convolutions are XLA's own.
"""

import contextlib
import ctypes
import fcntl
import functools
import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.core.cache import cache_dir
from jaxft.core.devices import num_cores
from jaxft.core.digests import short_digest
from jaxft.core.events import Warned, print_warnings

if TYPE_CHECKING:
    import numpy as np

SOURCE = Path(__file__).with_suffix(".cc")
LIBRARY, HEADERS = "onednn-cpu-gomp", "onednn-devel-cpu-gomp"
COMPILE_SECONDS = 120.0


class Unavailable(Exception):
    """oneDNN cannot be used here; the message says why."""


@dataclass(frozen=True)
class Library:
    """oneDNN, registered with XLA: the name of the custom call, and what the last digits of a result depend on."""

    target: str
    version: str
    isa: str
    num_threads: int
    handler: ctypes.CDLL

    def supports(self, geometry: "np.ndarray") -> bool:
        """Returns whether oneDNN has a fast implementation for a geometry, whose int64 numbers `onednn.cc` lists."""
        return self.handler.jaxft_prepare((ctypes.c_int64 * len(geometry))(*geometry.tolist()), len(geometry)) == 0


def is_supported_platform() -> bool:
    """Returns whether there is a package of oneDNN for this system and processor."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def compile_ahead() -> None:
    """Begins to compile the handler where that is needed, beside what the process does until it needs it."""

    def compile_quietly() -> None:
        with contextlib.suppress(Unavailable, OSError):  # which `load` tells
            _handler()

    threading.Thread(target=compile_quietly, daemon=True).start()


def load() -> Library:
    """Returns oneDNN, which is compiled where needed, and loaded and registered once a process.

    Raises:
      Unavailable: it cannot be used in this process.
    """
    with _loading:
        loaded = _load_once()
    if isinstance(loaded, str):
        raise Unavailable(loaded)
    return loaded


_loading = threading.Lock()  # the first calls may come from several threads


@functools.cache
def _load_once() -> Library | str:
    """Returns the library, or why there is none."""
    import jax

    try:
        dnnl, path = _handler()
        ctypes.CDLL(str(dnnl))  # the handler asks for `libdnnl.so.3`, which is the one loaded already, wherever it lies
        handler = ctypes.CDLL(str(path))
    except (Unavailable, OSError) as reason:  # a read-only or full disk, a folder that permits no programs, no libgomp
        return str(reason)
    num_threads = threads_of_a_call()
    handler.jaxft_version.restype = handler.jaxft_isa.restype = ctypes.c_char_p
    if handler.jaxft_begin(num_threads):
        return "oneDNN does not start"
    target = f"jaxft_convolve_{path.stem.partition('-')[0]}"
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler.jaxft_convolve), platform="cpu")
    return Library(target, handler.jaxft_version().decode(), handler.jaxft_isa().decode(), num_threads, handler)


def threads_of_a_call() -> int:
    """Returns the cores of this process, of which each of the CPU devices that it plays has its share."""
    import jax

    requested = os.environ.get("OMP_NUM_THREADS", "")
    cores = min(num_cores(), int(requested)) if requested.isdecimal() else num_cores()
    return max(cores // jax.local_device_count(backend="cpu"), 1)


def _jaxlib() -> Path:
    """Returns the folder of jaxlib, without importing JAX."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        raise Unavailable("jaxlib is not installed")
    return Path(spec.origin).parent


def _file_of(package: str, end: str) -> Path:
    """Returns the path of an installed package's file."""
    try:
        paths = [Path(os.path.normpath(file.locate())) for file in distribution(package).files or ()]
    except PackageNotFoundError:
        raise Unavailable(f"the package {package} is not installed") from None
    first_match = next((path for path in paths if path.as_posix().endswith(f"/{end}") and path.is_file()), None)
    if first_match is None:
        raise Unavailable(f"{end} of the package {package} is missing")
    return first_match


def _handler() -> tuple[Path, Path]:
    """Returns oneDNN and the compiled handler, which is compiled first where it is not there yet, or damaged."""
    if not is_supported_platform():
        raise Unavailable("oneDNN is used on Linux with an x86-64 processor only")
    dnnl, headers = _file_of(LIBRARY, "libdnnl.so.3"), _file_of(HEADERS, "oneapi/dnnl/dnnl.hpp").parents[2]
    # All that the handler is made of names it and its custom call, so that JAX's cache holds no program of another one.
    made_of = [SOURCE.read_bytes(), *(version(package).encode() for package in ("jaxlib", LIBRARY, HEADERS))]
    folder = cache_dir() / "onednn"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = short_digest(b"".join(made_of))
    _check_owned(folder, stat.S_IFDIR)
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = _find_whole(folder, key)
        if path is None:
            for abandoned in folder.glob("tmp*"):  # by a process that was killed
                shutil.rmtree(abandoned)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                compiled = _compile(Path(temporary) / f"{key}.so", dnnl, headers)
                path = compiled.replace(folder / f"{key}-{short_digest(compiled.read_bytes())}.so")
    _check_owned(path, stat.S_IFREG)
    return dnnl, path


def _find_whole(folder: Path, key: str) -> Path | None:
    """Returns the handler whose content has the digest in its name, or None; others of the key are removed."""
    whole = None
    for path in folder.glob(f"{key}*.so"):
        if path.stem == f"{key}-{short_digest(path.read_bytes())}":
            whole = path
        else:
            print_warnings(Warned(f"{str(path)!r} does not match its digest; it is compiled again"))
            path.unlink()
    return whole


def _check_owned(path: Path, kind: int) -> None:
    """Checks that a file or folder belongs to this user, and that nobody else may read or write it."""
    status = path.lstat()
    if stat.S_IFMT(status.st_mode) != kind or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise Unavailable(f"{path} does not belong to this user alone (mode 0700)")


def _compile(path: Path, dnnl: Path, headers: Path) -> Path:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        raise Unavailable("there is no C++ compiler, such as g++")
    words = [compiler, "-O1", "-std=c++17", "-shared", "-fPIC", f"-I{_jaxlib() / 'include'}", f"-I{headers}"]
    words += [str(SOURCE), str(dnnl), "-o", str(path)]
    try:
        ran = subprocess.run(words, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{compiler} took more than {COMPILE_SECONDS:.0f} seconds") from None
    if ran.returncode:
        error = next((line for line in ran.stderr.splitlines() if "error" in line), f"exit code {ran.returncode}")
        raise Unavailable(f"{compiler} failed: {error}")
    path.chmod(0o700)
    return path
