"""C++ code of jaxft, which the compiler of the system compiles on first use.

A compiled library is kept in a private folder of the user, and its file name contains a digest of its content. If
something is missing, `compiled` raises `Unavailable`, and XLA computes instead.
"""

import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jaxft.core.cache import cache_dir
from jaxft.core.digests import short_digest
from jaxft.core.events import Warned, print_warnings

COMPILE_SECONDS = 120.0


class Unavailable(Exception):
    """Compiled code is not available; the message is the reason."""


def compiled(source: Path, versions: Sequence[str], arguments: Sequence[str]) -> Path:
    """Returns the path of the compiled library of a C++ file. If it is missing or damaged, it is compiled first.

    Args:
      source: the C++ file. Its name is also that of the folder of the library in the cache.
      versions: the versions that the library depends on. A new version needs a new library.
      arguments: arguments of the compiler, such as the folders of headers.

    Raises:
      Unavailable: there is no compiler, it failed, or the folder is not private to this user.
      OSError: the folder cannot be written.
    """
    # The name is a digest of the source and of all versions, so that the compile cache of JAX never runs a program
    # with another library.
    key = short_digest(b"".join([source.read_bytes(), *(version.encode() for version in versions)]))
    folder = cache_dir() / source.stem
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owned(folder, stat.S_IFDIR)
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = _find_whole(folder, key)
        if path is None:
            for abandoned in folder.glob("tmp*"):  # from a process that was killed
                shutil.rmtree(abandoned)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                new = _compile(Path(temporary) / f"{key}.so", [str(source), *arguments])
                path = new.replace(folder / f"{key}-{short_digest(new.read_bytes())}.so")
    _check_owned(path, stat.S_IFREG)
    return path


def _find_whole(folder: Path, key: str) -> Path | None:
    """Returns the library whose content matches the digest in its name, or None. Removes other libraries of the key."""
    whole = None
    for path in folder.glob(f"{key}*.so"):
        if path.stem == f"{key}-{short_digest(path.read_bytes())}":
            whole = path
        else:
            print_warnings(Warned(f"{str(path)!r} does not match its digest; jaxft compiles it again"))
            path.unlink()
    return whole


def _check_owned(path: Path, kind: int) -> None:
    """Checks that a file or folder belongs to this user, and that other users can neither read nor write it."""
    status = path.lstat()
    if stat.S_IFMT(status.st_mode) != kind or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise Unavailable(f"{path} is not private to this user (it needs mode 0700)")


def _compile(path: Path, arguments: Sequence[str]) -> Path:
    """Compiles the library `path`, and returns its path."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        raise Unavailable("no C++ compiler, such as g++, is installed")
    command = [compiler, "-std=c++17", "-shared", "-fPIC", *arguments, "-o", str(path)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{compiler} took more than {COMPILE_SECONDS:.0f} seconds") from None
    if ran.returncode:
        error = next((line for line in ran.stderr.splitlines() if "error" in line), f"exit code {ran.returncode}")
        raise Unavailable(f"{compiler} failed: {error}")
    path.chmod(0o700)
    return path
