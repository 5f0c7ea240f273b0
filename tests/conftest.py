"""Strict settings for every test, and where the real data are."""

import contextlib
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import platformdirs

# Before JAX is imported: several devices, so that nothing works by there being one only.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if not os.environ.get("JAXFT_TEST_OPTIMIZED"):  # most of the time goes into compiling, and little into what it makes
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
    # XLA's older emitters, in one module a program: a training step compiles in a fifth of the CPU time. Later versions
    # do not know the flag, and end the process.
    if version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
# Tests compile the same small networks again and again, in processes of their own too: what is compiled is kept in the
# user's cache folder, so that the next run compiles only what changed.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(platformdirs.user_cache_path("jaxft-tests") / "compiled"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import helpers  # noqa: F401  (its network is known by name)
import jax
import pytest
from hypothesis import HealthCheck, settings

from jaxft.core.locks import locked
from jaxft.ops import change_sums, native, onednn
from jaxft.study.device_memory import drop_compiled_programs

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# How long an example takes says more of what else the machine does than of the code; the same examples in every run.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
)
settings.load_profile("patient")

ROOT = Path(__file__).resolve().parent.parent
MOST_COMPILED_BYTES = 2_000_000_000
DATA = Path(os.environ.get("JAXFT_TEST_DATA") or ROOT.parent / "shared" / "data")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks nightly tests as slow, so that `-m "not slow"`, which replaces `-m "not nightly"`, leaves them out too."""
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(pytest.mark.slow)


def pytest_sessionstart(session):
    """Drops the programs that were compiled longest ago where all of them take too much room."""
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    if "PYTEST_XDIST_WORKER" in os.environ or not folder.is_dir():  # the process that starts the others does it
        return
    files = sorted(((path.stat(), path) for path in folder.iterdir()), key=lambda file: -file[0].st_mtime)
    total = 0
    for status, path in files:
        total += status.st_size
        if total > MOST_COMPILED_BYTES:
            path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """Returns the folder that all processes of the tests share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def made_once(shared_folder, compiled_code):
    """Returns a function that returns a folder which `make(folder)` fills once for all processes of the tests.

    Tests only read it; one that writes has a copy.
    """

    def folder_of(name, make):
        folder, is_made = shared_folder / "once" / name, shared_folder / "once" / f"{name}.made"
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f"{name}.lock")), pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAXFT_CACHE", str(compiled_code))
            if not is_made.exists():
                make(folder)
                is_made.touch()
        return folder

    return folder_of


@pytest.fixture
def no_report(monkeypatch):
    """Leaves out the report of the studies that a test runs and that it does not look at."""
    monkeypatch.setattr("jaxft.report.write_report", lambda workdir: None)


@pytest.fixture(scope="session")
def compiled_code(shared_folder):
    """Returns the cache folder with jaxft's C++ code, compiled once for all processes of the tests, if it can be."""
    cache = shared_folder / "jaxft"
    before = os.environ.get("JAXFT_CACHE")
    os.environ["JAXFT_CACHE"] = str(cache)
    for code in (onednn, change_sums):
        with contextlib.suppress(native.Unavailable):
            code.load()
    del os.environ["JAXFT_CACHE"]
    if before is not None:
        os.environ["JAXFT_CACHE"] = before
    return cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch, compiled_code):
    """Gives every test a cache folder of its own, with the compiled code in it."""
    cache = tmp_path_factory.mktemp("cache")
    for code in (onednn, change_sums):
        folder = compiled_code / code.SOURCE.stem
        if folder.is_dir():
            shutil.copytree(folder, cache / folder.name, ignore=shutil.ignore_patterns("tmp*"))  # still being compiled
    monkeypatch.setenv("JAXFT_CACHE", str(cache))


@pytest.fixture
def shared_cache(own_cache, compiled_code, monkeypatch):
    """Gives the test the cache folder that all processes of the tests share, for pictures that several tests decode."""
    monkeypatch.setenv("JAXFT_CACHE", str(compiled_code))


@pytest.fixture
def needs_onednn():
    """Skips the test where oneDNN cannot be used."""
    try:
        onednn.load()
    except onednn.Unavailable as reason:
        pytest.skip(f"oneDNN cannot be used: {reason}")


@pytest.fixture(autouse=True)
def room_for_programs():
    """Lets go of what earlier tests compiled before the process is full of it."""
    yield
    drop_compiled_programs()


@pytest.fixture(scope="session")
def real_data():
    """Returns the folder of real weights and images, or skips the test."""
    if not (DATA / "weights").is_dir():
        pytest.skip(f"needs the real data at $JAXFT_TEST_DATA ({DATA} is not there)")
    return DATA


@pytest.fixture
def root():
    """Returns the folder of the repository."""
    return ROOT
