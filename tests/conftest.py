"""Strict settings for every test, and where the real data are."""

import os
from pathlib import Path

# Before JAX is imported: several devices, so that nothing works by there being one only.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("JAXFT_TEST_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Gives every test a cache folder of its own."""
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def real_data():
    """Returns the folder of real weights and images, or skips the test."""
    if not (DATA / "weights").is_dir():
        pytest.skip(f"needs the real data at $JAXFT_TEST_DATA ({DATA} is not there)")
    return DATA


@pytest.fixture
def root():
    """Returns the folder of the repository."""
    return ROOT
