"""Runs that are loaded one after the other, and runs that are distributed over devices."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxft.analysis.parameters import changes
from jaxft.analysis.sources import load_source, shard_runs, streamed_changes
from jaxft.core.errors import UserError

RNG = np.random.default_rng(1)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.setattr("jaxft.analysis.pairs.CHUNK", 5)
    start = {"a": {"kernel": normal(3, 4), "bias": normal(4)}, "b": {"kernel": normal(4, 2)}}
    after = jax.tree.map(lambda w: w[None] + 0.01 * normal(5, *w.shape), start)
    other = jax.tree.map(lambda w: normal(*w.shape), start)
    jax.clear_caches()
    yield start, after, other
    jax.clear_caches()


def one_run(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def test_streamed_changes_are_those_in_memory(runs):
    start, after, _ = runs
    streamed = streamed_changes(start, (lambda i=i: one_run(after, i) for i in range(5)))
    expected = changes(start, after)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), streamed, expected)
    with pytest.raises(ValueError, match="no runs"):
        streamed_changes(start, [])
    with pytest.raises(ValueError, match="only one of the two trees has"):
        streamed_changes(start, [{"a": start["a"]}])


def test_a_source_that_is_no_safetensors_file(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"no")
    for name in ("weights.bin", "missing"):
        with pytest.raises(UserError, match="cannot be read as a safetensors file"):
            load_source(tmp_path / name)


@pytest.mark.slow
def test_runs_on_eight_devices():
    code = """
import jax, numpy as np
from jaxft.analysis.pairs import pairs
from jaxft.analysis.parameters import changes
from jaxft.analysis.sources import shard_runs
from jaxft.analysis.spectra import spectra
rng = np.random.default_rng(0)
start = {"a": {"kernel": rng.normal(size=(300, 120)).astype(np.float32)}}
after = jax.tree.map(lambda w: w[None] + rng.normal(size=(16, *w.shape)).astype(np.float32), start)
sharded = shard_runs(after)
assert len(sharded["a"]["kernel"].devices()) == 8
for function in (changes, lambda b, a: pairs(a, {"start": b}), lambda b, a: spectra(b, a, 3)):
    one, many = function(start, after), function(start, sharded)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-3), one, many)
assert len(changes(start, sharded)["leaf"]["a/kernel"]["l2"].devices()) == 8
assert len(shard_runs(after, jax.devices()[:6])["a"]["kernel"].devices()) == 4
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_runs_that_cannot_be_distributed():
    for tree in ({}, {"w": np.float32(1)}, {"a": normal(2, 3), "b": normal(3, 3)}):
        with pytest.raises(ValueError, match="the same leading axis of runs"):
            shard_runs(tree)
