"""The handler that XLA calls: compiled once into a private folder, or unavailable for one clear reason."""

import errno
import os
import shutil
import subprocess
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import pytest

from jaxft import cli
from jaxft.core import devices
from jaxft.core.cache import cache_dir
from jaxft.ops import convolution, native, onednn

load_anew = onednn._load_once.__wrapped__  # without what this process has loaded already

pytestmark = pytest.mark.skipif(not onednn.is_supported_platform(), reason="there is no oneDNN for this platform")


@pytest.fixture
def folder():
    """Returns the folder of compiled handlers, emptied."""
    folder = cache_dir() / "onednn"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@pytest.fixture
def compiled_handler(needs_onednn):
    """Returns the handler that the tests use."""
    (path,) = (cache_dir() / "onednn").glob("*.so")
    return path


@pytest.mark.usefixtures("needs_onednn")
def test_the_library_has_its_version_and_instruction_set():
    library = onednn.load()
    assert library.version == "3.2.0" and version("onednn-cpu-gomp") == "2023.2.0"
    assert library.isa.startswith(("avx", "sse"))
    assert library.target.startswith("jaxft_convolve_")


def test_there_is_no_compiler(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert load_anew() == "no C++ compiler, such as g++, is installed"


def test_the_compiler_fails(folder, monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'x.cc:1: fatal error: nothing works' >&2\nexit 3\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    assert load_anew() == f"{compiler} failed: x.cc:1: fatal error: nothing works"
    assert not list(folder.glob("*.so")) and [path.name for path in folder.iterdir()] == ["lock"]


def test_a_compiler_that_never_ends(folder, monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(native, "COMPILE_SECONDS", 0.2)
    assert "took more than 0 seconds" in load_anew()


@pytest.mark.parametrize("package", ["LIBRARY", "HEADERS"])
def test_a_package_is_missing(package, monkeypatch):
    monkeypatch.setattr(onednn, package, "onednn-of-nobody")
    assert load_anew() == "the package onednn-of-nobody is not installed"


def test_a_file_of_a_package_is_missing(monkeypatch):
    monkeypatch.setattr(onednn, "LIBRARY", "numpy")
    assert load_anew() == "libdnnl.so.3 of the package numpy is missing"


def test_a_full_disk(folder, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(native, "_compile", full)
    assert "No space left on device" in load_anew()


def test_a_cache_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "file"))
    assert "Not a directory" in load_anew()


def test_a_handler_that_the_system_does_not_load_is_reported(compiled_handler, monkeypatch):
    """For example, one in a folder on a noexec mount."""
    compiled_handler.write_bytes(b"\x7fELF" + bytes(1000))
    monkeypatch.setattr(native, "_find_whole", lambda folder, key: compiled_handler)
    assert compiled_handler.name in load_anew()


@pytest.mark.parametrize("how", ["a byte differs", "cut", "empty", "without a digest"])
def test_a_damaged_handler_is_compiled_again(compiled_handler, how, monkeypatch, capsys):
    whole, compiled = compiled_handler.read_bytes(), []
    damaged = compiled_handler
    if how == "without a digest":
        damaged = damaged.rename(damaged.with_name(damaged.name.partition("-")[0] + ".so"))
    else:
        half = len(whole) // 2
        differs = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
        damaged.write_bytes({"a byte differs": differs, "cut": whole[:half], "empty": b""}[how])

    def compile_quickly(path, arguments):
        compiled.append(path.name)
        path.write_bytes(whole)
        path.chmod(0o700)
        return path

    monkeypatch.setattr(native, "_compile", compile_quickly)
    assert onednn._handler()[1] == compiled_handler
    assert len(compiled) == 1 and compiled_handler.read_bytes() == whole
    assert capsys.readouterr().err == f"warning: {str(damaged)!r} does not match its digest; jaxft compiles it again\n"
    assert onednn._handler()[1] == compiled_handler and len(compiled) == 1
    assert list(damaged.parent.glob("*.so")) == [compiled_handler]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_can_enter_is_refused(compiled_handler, mode):
    compiled_handler.parent.chmod(mode)
    assert load_anew() == f"{compiled_handler.parent} is not private to this user (it needs mode 0700)"


def test_a_handler_that_others_can_write_is_refused(compiled_handler):
    compiled_handler.chmod(0o722)
    assert load_anew() == f"{compiled_handler} is not private to this user (it needs mode 0700)"


def test_a_link_is_refused(compiled_handler, tmp_path):
    folder = compiled_handler.parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert load_anew() == f"{folder} is not private to this user (it needs mode 0700)"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_handler_of_another_user_is_refused(compiled_handler):
    os.chown(compiled_handler, 12345, -1)
    assert load_anew() == f"{compiled_handler} is not private to this user (it needs mode 0700)"


LOADED_BY_MANY = """
import threading
from jaxft.ops import onednn
onednn.compile_ahead()
targets = []
threads = [threading.Thread(target=lambda: targets.append(onednn.load().target)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(*targets)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("needs_onednn")
def test_processes_and_threads_compile_once(folder, monkeypatch, tmp_path):
    """Also with a thread that compiles ahead, and after a process that was killed during compilation."""
    compiler, log = tmp_path / "c++", tmp_path / "log"
    compiler.write_text(f'#!/bin/sh\necho called >> {log}\nexec {shutil.which("c++")} "$@"\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    (folder / "tmpabandoned").mkdir(parents=True)
    folder.chmod(0o700)
    command = [sys.executable, "-c", LOADED_BY_MANY]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    targets = [process.communicate()[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert list(map(len, targets)) == [4, 4] and len(set(targets[0] + targets[1])) == 1
    assert log.read_text() == "called\n"
    key = targets[0][0].removeprefix("jaxft_convolve_")
    (handler,) = folder.glob(f"{key}-*.so")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["lock", handler.name])
    assert folder.stat().st_mode & 0o777 == handler.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("needs_onednn")
def test_1024_geometries_are_kept():
    library = onednn.load()
    for height in range(1, 1101):
        case = convolution.Case("output", (1, height, 1, 8), (1, 1, 8, 8), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, None)
        assert library.supports(convolution._geometry(case, jnp.float32))
    assert library.handler.jaxft_num_kept() == 1024


@pytest.mark.parametrize(
    ("asked", "cores", "devices", "threads"),
    [("", 8, 1, 8), ("3", 8, 1, 3), ("16", 8, 1, 8), ("", 8, 4, 2), ("", 2, 8, 1), ("4,2", 8, 1, 8), ("", 1, 1, 1)],
)
def test_threads_stay_within_the_cores(asked, cores, devices, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(onednn, "num_cores", lambda: cores)
    monkeypatch.setattr(jax, "local_device_count", lambda backend: devices)
    assert onednn.threads_of_a_call() == threads


# --- the environment of commands --------------------------------------------------------------------------------


def test_a_command_restarts_once_with_a_fast_environment(monkeypatch):
    started = []
    monkeypatch.setattr(cli.os, "execve", lambda *args: started.append(args))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-P", "-m", "jaxft.cli", "study", "--config=x.py"])
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    cli.restart_with(devices.fast_environment())
    ((program, words, environment),) = started
    assert program == sys.executable and words == [sys.executable, "-P", "-m", "jaxft.cli", "study", "--config=x.py"]
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.check=1:glibc.malloc.hugetlb=1"
    assert environment["GOMP_SPINCOUNT"] == "1000"
    for name in ("GLIBC_TUNABLES", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, environment[name])
    cli.restart_with(devices.fast_environment())
    assert len(started) == 1 and devices.fast_environment() == {}


def test_variables_of_the_user_are_kept(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert devices.fast_environment() == {}


def test_an_import_does_not_change_the_environment():
    code = (
        "import os; before = dict(os.environ)\n"
        "import jaxft.ops.convolution, jaxft.recipes.study\n"
        "changed = {n for n in {*before, *os.environ} if before.get(n) != os.environ.get(n)}\n"
        "print({n for n in changed if n.startswith(('GLIBC', 'OMP', 'GOMP', 'XLA', 'LD', 'JAX'))})"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
