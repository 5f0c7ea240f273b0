"""Distances and cosines between all pairs of runs, against NumPy in float64."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxft.analysis.pairs import pairs, streamed_pairs

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


def flat(tree, names):
    leaves = [tree[a][b].reshape(*tree[a][b].shape[: tree[a][b].ndim - n], -1) for a, b, n in names]
    return np.concatenate(leaves, -1).astype(np.float64)


def check_pairs(found, start, after, other):
    layers = {"a": [("a", "kernel", 2), ("a", "bias", 1)], "b": [("b", "kernel", 2)]}
    layers["total"] = layers["a"] + layers["b"]
    assert list(found) == ["a", "b", "total"]
    for layer, names in layers.items():
        w0, w, w1 = (flat(tree, names) for tree in (start, after, other))
        d, norms = w - w0, np.linalg.norm
        expected = {
            "distance": norms(w[:, None] - w[None], axis=-1),
            "cosine": w @ w.T / np.outer(norms(w, axis=1), norms(w, axis=1)),
            "change_cosine": d @ d.T / np.outer(norms(d, axis=1), norms(d, axis=1)),
            "distance to pretrained": norms(d, axis=1),
            "distance to random": norms(w - w1, axis=1),
        }
        assert found[layer].keys() == expected.keys()
        for measure, value in expected.items():
            np.testing.assert_allclose(found[layer][measure], value, rtol=2e-5, atol=1e-6, err_msg=measure)
        assert (np.diag(found[layer]["distance"]) == 0).all()


def test_pairs_against_numpy(runs):
    start, after, other = runs
    check_pairs(pairs(after, {"pretrained": start, "random": other}), start, after, other)


@pytest.mark.parametrize("num_blocks", [1, 2, 6])
def test_streamed_pairs_are_those_in_memory(runs, tmp_path, num_blocks):
    start, after, other = runs
    sources = []
    for i in range(5):
        one = one_run(after, i)
        leaves = {f"{a}/{b}": np.asarray(x) for a, layer in one.items() for b, x in layer.items()}
        save_file(leaves, tmp_path / f"{i}.safetensors")
        sources.append((lambda one=one: one) if i % 2 else tmp_path / f"{i}.safetensors")
    max_bytes = {1: 10**6, 2: 9 * 96, 6: 3 * 96}[num_blocks]
    check_pairs(streamed_pairs(sources, {"pretrained": start, "random": other}, max_bytes), start, after, other)


def test_pairs_of_degenerate_runs(runs):
    start, after, _ = runs
    with_nan = jax.tree.map(np.copy, after)
    with_nan["b"]["kernel"][1] = np.nan
    with_nan["a"] = jax.tree.map(lambda w0: np.repeat(w0[None], 5, 0), start["a"])
    found = pairs(with_nan, {"pretrained": start})
    assert np.isnan(found["b"]["distance"][1]).all() and np.isfinite(found["b"]["distance"][2:, 2:]).all()
    assert (found["a"]["distance"] == 0).all() and np.isnan(found["a"]["change_cosine"]).all()
    np.testing.assert_allclose(found["a"]["cosine"], 1, rtol=1e-6)
    alone = pairs(jax.tree.map(lambda x: x[:1], after), {"pretrained": start})
    assert alone["b"]["distance"].tolist() == [[0]]


def test_pairs_without_runs_or_references(runs):
    start, after, other = runs
    with pytest.raises(ValueError, match="`references` is empty"):
        pairs(after, {})
    with pytest.raises(ValueError, match="no leading axis of runs"):
        pairs(start, {"pretrained": start})
    with pytest.raises(ValueError, match="only one of the two trees has"):
        pairs(after, {"pretrained": start, "random": {"a": other["a"]}})
    with pytest.raises(ValueError, match="no runs"):
        streamed_pairs([], {"pretrained": start})
    with pytest.raises(ValueError, match="but three runs take"):
        streamed_pairs([start], {"pretrained": start}, max_bytes=10)
