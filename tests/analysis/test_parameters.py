"""Parameter change against NumPy and numbers worked out by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.analysis.measures import MEASURES, Measure
from jaxft.analysis.parameters import (
    change,
    changes,
    filter_changes,
    layer_changes,
    leaf_changes,
    pairwise_distances,
    total_change,
    whole_measures,
)


def test_change_by_hand():
    # w0 = (3, 4), w = (3, -4): d = (0, -8), |w0| = |w| = 5, w.w0 = 9 - 16 = -7; one of two signs turned.
    result = change(jnp.array([3.0, 4.0]), jnp.array([3.0, -4.0]))
    assert result["l2"] == 8
    assert result["relative_l2"] == pytest.approx(8 / 5)
    assert result["rms"] == pytest.approx(8 / math.sqrt(2))
    assert result["cosine"] == pytest.approx(-7 / 25)
    assert result["sign_flips"] == 0.5
    assert result["max_abs"] == 8


def test_change_from_zero():
    result = change(jnp.zeros(4), jnp.ones(4))
    assert (
        result["l2"] == 2
        and result["relative_l2"] == np.inf
        and np.isnan(result["cosine"])
        and result["sign_flips"] == 0
    )


def test_unchanged():
    w = jnp.array([1.0, -2.0, 0.5])
    result = change(w, w)
    assert result["l2"] == 0 and result["relative_l2"] == 0 and result["rms"] == 0 and result["sign_flips"] == 0
    assert result["cosine"] == pytest.approx(1)


@pytest.fixture
def runs():
    rng = np.random.default_rng(3)
    before = {
        "conv": {
            "kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32),
            "bias": rng.normal(size=4).astype(np.float32),
        },
        "head": {"kernel": rng.normal(size=(4, 5)).astype(np.float32)},
    }
    after = jax.tree.map(lambda w: w[None] + rng.normal(size=(3, *w.shape)).astype(np.float32), before)
    return before, after


def numpy_change(w0, w):
    w0, w = w0.ravel().astype(np.float64), w.ravel().astype(np.float64)
    l2 = np.sqrt(((w - w0) ** 2).sum())
    return {
        "l2": l2,
        "relative_l2": l2 / np.sqrt((w0**2).sum()),
        "rms": np.sqrt(((w - w0) ** 2).mean()),
        "cosine": (w @ w0) / np.sqrt((w @ w) * (w0 @ w0)),
        "sign_flips": np.mean(np.sign(w) * np.sign(w0) < 0),
        "max_abs": np.abs(w - w0).max(),
    }


def assert_same(changes, expected):
    for measure, value in expected.items():
        np.testing.assert_allclose(changes[measure], value, rtol=2e-6, atol=1e-7)


def test_leaves_layers_and_filters_against_numpy(runs):
    before, after = runs
    leaves, layers, filters = leaf_changes(before, after), layer_changes(before, after), filter_changes(before, after)
    assert set(leaves) == {"conv/kernel", "conv/bias", "head/kernel"}
    assert set(layers) == {"conv", "head"}
    assert set(filters) == {"conv/kernel", "head/kernel"}
    for run in range(3):
        kernel0, kernel = before["conv"]["kernel"], after["conv"]["kernel"][run]
        one = jax.tree.map(lambda x: x[run], leaves)  # noqa: B023
        assert_same(one["conv/kernel"], numpy_change(kernel0, kernel))
        both0 = np.concatenate([kernel0.ravel(), before["conv"]["bias"]])
        both = np.concatenate([kernel.ravel(), after["conv"]["bias"][run]])
        assert_same(jax.tree.map(lambda x: x[run], layers["conv"]), numpy_change(both0, both))  # noqa: B023
        for i in range(4):
            one_filter = jax.tree.map(lambda x: x[run, i], filters["conv/kernel"])  # noqa: B023
            assert_same(one_filter, numpy_change(kernel0[..., i], kernel[..., i]))


def test_each_run_against_its_own_start(runs):
    before, after = runs
    starts = jax.tree.map(lambda w: np.stack([w, 2 * w, -w]), before)
    own = leaf_changes(starts, after, own_starts=True)["head/kernel"]
    for run, factor in enumerate((1, 2, -1)):
        expected = numpy_change(factor * before["head"]["kernel"], after["head"]["kernel"][run])
        assert_same(jax.tree.map(lambda x: x[run], own), expected)  # noqa: B023


@pytest.fixture
def mean_abs_change():
    """Registers, for one test, a measure that needs a sum of its own."""
    measure = Measure(
        lambda totals: totals.extra["abs_change"] / totals.num_values,
        label="mean absolute change",
        terms={"abs_change": lambda before, after: abs(after - before)},
        whole=True,
    )
    MEASURES.register("mean_abs_change", measure)
    yield
    del MEASURES.entries["mean_abs_change"]


def test_a_registered_measure_is_measured_at_every_level(runs, mean_abs_change):
    before, after = runs
    differences = jax.tree.map(lambda w0, w: np.abs(w - w0[None]), before, after)
    kernel, bias = differences["conv"]["kernel"], differences["conv"]["bias"]
    both = np.concatenate([kernel.reshape(3, -1), bias], axis=1)
    layers = layer_changes(before, after)
    np.testing.assert_allclose(layers["conv"]["mean_abs_change"], both.mean(1), rtol=1e-6)
    filters = filter_changes(before, after)["conv/kernel"]["mean_abs_change"]
    np.testing.assert_allclose(filters, kernel.mean((1, 2, 3)), rtol=1e-6)
    assert_same(
        jax.tree.map(lambda x: x[0], layers["head"]), numpy_change(before["head"]["kernel"], after["head"]["kernel"][0])
    )
    one = jax.tree.map(lambda w: w[0], after)
    found = whole_measures(
        before["conv"] | {"head": before["head"]["kernel"]}, one["conv"] | {"head": one["head"]["kernel"]}
    )
    everything = np.concatenate([both[0], differences["head"]["kernel"][0].ravel()])
    assert found == {"mean_abs_change": pytest.approx(everything.mean(), rel=1e-6)}


def test_without_a_measure_of_the_whole_there_is_no_value(runs):
    before, _ = runs
    assert list(MEASURES) == ["l2", "relative_l2", "rms", "cosine", "sign_flips", "max_abs"]
    assert whole_measures(before["head"], before["head"]) == {}


def test_trees_that_differ_are_named(runs):
    before, after = runs
    with pytest.raises(ValueError, match="head/kernel"):
        leaf_changes({"conv": before["conv"]}, after)
    shorter = before | {"head": {"kernel": before["head"]["kernel"][:3]}}
    with pytest.raises(ValueError, match=r"leaf 'head/kernel' has shape \[4, 5\] in `before` and \[3, 5\] in `after`"):
        layer_changes(before, shorter)
    fewer = after | {"head": {"kernel": after["head"]["kernel"][:2]}}
    for function in (functools.partial(layer_changes, before), pairwise_distances):
        with pytest.raises(ValueError, match=r"'head/kernel' has shape \[2, 4, 5\], and 'conv/[a-z]+' has \[3, "):
            function(fewer)
    with pytest.raises(ValueError, match="'head/kernel'"):  # only one leaf has the axis of runs
        layer_changes(before, before | {"head": after["head"]})
    with pytest.raises(ValueError, match="they must be equal"):
        change(before["conv"]["bias"], after["conv"]["bias"])
    with pytest.raises(ValueError, match="give the parameters of one run"):
        total_change(before["conv"], after["conv"])


def test_one_run_has_scalars_and_is_not_taken_for_many(runs):
    """The same shape means one run, also if the first axes of all leaves are equal and look like runs."""
    before = {"head": {"kernel": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), "bias": np.zeros(2, np.float32)}}
    after = {"head": {"kernel": np.array([[1.0, 2.0], [3.0, 1.0]], np.float32), "bias": np.full(2, 2, np.float32)}}
    levels = changes(before, after)
    assert levels["layer"]["head"]["l2"].shape == () and levels["filter"]["head/kernel"]["l2"].tolist() == [0, 3]
    assert float(levels["layer"]["head"]["l2"]) == pytest.approx(math.sqrt(9 + 8))
    assert float(levels["leaf"]["head/bias"]["l2"]) == pytest.approx(math.sqrt(8))
    paired = layer_changes(before, after, own_starts=True)  # two runs, of two weights and a bias each
    np.testing.assert_allclose(paired["head"]["l2"], [2, math.sqrt(9 + 4)])
    one, many = layer_changes(*(jax.tree.map(lambda w: w[0], tree) for tree in (runs[1], runs[1]))), runs
    assert one["conv"]["l2"] == 0 and layer_changes(*many)["conv"]["l2"].shape == (3,)


def test_pairwise_distances_against_numpy(runs):
    _, after = runs
    distances = pairwise_distances(after)["head"]
    flat = after["head"]["kernel"].reshape(3, -1).astype(np.float64)
    expected = np.sqrt(((flat[:, None] - flat[None]) ** 2).sum(-1))
    np.testing.assert_allclose(distances, expected, rtol=1e-6)
    assert (np.diag(distances) == 0).all()
    np.testing.assert_array_equal(distances, distances.T)
