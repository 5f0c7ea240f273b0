"""Linear CKA between taps from batches, against the definitions in NumPy."""

import functools

import numpy as np
import pytest

from jaxft.analysis.similarity_matrices import TapSimilarity, stream_similarity, tap_similarity

RNG = np.random.default_rng(0)


def draw(n):
    return {
        "maps": RNG.normal(size=(n, 3, 3, 8)).astype(np.float32),
        "features": RNG.normal(size=(n, 10)).astype(np.float32),
    }


def hsic_1(x, y):
    """Returns the unbiased estimator as Song et al. 2012 write it, in float64."""
    x, y = (a.reshape(len(a), -1).astype(np.float64) for a in (x, y))
    a, b = x @ x.T, y @ y.T
    np.fill_diagonal(a, 0)
    np.fill_diagonal(b, 0)
    n, ones = len(a), np.ones(len(a))
    trace = np.trace(a @ b) + ones @ a @ ones * (ones @ b @ ones) / ((n - 1) * (n - 2))
    return (trace - 2 / (n - 2) * (ones @ a @ b @ ones)) / (n * (n - 3))


@pytest.mark.parametrize("n", [4, 40])
def test_sums_of_a_batch_are_those_of_the_definition(n):
    x, y = draw(n), draw(n)
    sums = tap_similarity(x, y)
    for i, a in enumerate(x.values()):
        assert sums.self_x[i] == pytest.approx(hsic_1(a, a), rel=1e-5)
        for j, b in enumerate(y.values()):
            assert sums.cross[i, j] == pytest.approx(hsic_1(a, b), rel=1e-4, abs=1e-4)


def test_numerator_and_denominators_are_added_separately():
    batches = [(draw(20), draw(20)) for _ in range(3)]
    sums = [tap_similarity(x, y) for x, y in batches]
    total = functools.reduce(TapSimilarity.plus, sums)
    x, y = zip(*batches, strict=True)
    cross = sum(hsic_1(a["maps"], b["features"]) for a, b in batches)
    scale = np.sqrt(sum(hsic_1(a["maps"], a["maps"]) for a in x) * sum(hsic_1(b["features"], b["features"]) for b in y))
    assert total.cka[0, 1] == pytest.approx(cross / scale, abs=1e-5)
    np.testing.assert_array_equal(stream_similarity(batches).cka, total.cka)


def test_rotation_scale_and_shift_do_not_change_the_similarity():
    x = draw(30)
    rotation = np.linalg.qr(RNG.normal(size=(10, 10)))[0].astype(np.float32)
    y = {"maps": 3 * x["maps"] + 1000, "features": x["features"] @ rotation, "permuted": x["features"][:, ::-1]}
    cka = tap_similarity(x, y).cka
    assert cka[0, 0] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(cka[1, 1:], 1, rtol=1e-5)
    assert abs(cka[0, 1]) < 0.3
    stretched = {"features": x["features"] * np.linspace(0.1, 10, 10, dtype=np.float32)[None]}
    assert tap_similarity(x, stretched).cka[1, 0] < 0.99


def test_unrelated_activations_have_a_similarity_of_zero_on_average():
    """The biased estimator has 0.5 for 20 images of 100 features."""
    values = [
        tap_similarity({"x": RNG.normal(size=(20, 100))}, {"y": RNG.normal(size=(20, 100))}).cka[0, 0]
        for _ in range(50)
    ]
    assert abs(np.mean(values)) < 0.03


def test_degenerate_activations():
    x = draw(10)
    assert np.isnan(tap_similarity(x, {"constant": np.full((10, 4), 2.5, np.float32)}).cka).all()
    for y, reason in (
        ({"a": x["features"][:9]}, "the same number, at least 4"),
        ({"a": np.where(np.arange(10)[:, None] == 3, np.nan, x["features"])}, "the activations of 'a' are not finite"),
    ):
        with pytest.raises(ValueError, match=reason):
            tap_similarity(x, y)
    with pytest.raises(ValueError, match="at least 4"):
        tap_similarity({"a": np.zeros((3, 2))}, {"a": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="no batch of at least 4 images"):
        stream_similarity([({"a": np.zeros((3, 2))}, {"a": np.zeros((3, 2))})])
