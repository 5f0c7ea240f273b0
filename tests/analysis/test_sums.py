"""Sums and maxima over values, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.analysis import sums as sums_module
from jaxft.analysis.parameters import changes, leaf_sums

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("own_starts", [False, True])
@pytest.mark.parametrize("shape", [(7, 3), (3, 3, 4, 5), (50,), (9, 40), (0, 4)])
def test_sums_in_chunks_are_the_sums(shape, own_starts, monkeypatch):
    monkeypatch.setattr(sums_module, "CHUNK", 16)
    monkeypatch.setattr(sums_module, "WIDTH", 6)
    before, after = normal(*(2,) * own_starts, *shape), normal(2, *shape)
    jax.clear_caches()
    of_filters, whole = leaf_sums(before, after)
    jax.clear_caches()
    w0, w = np.broadcast_to(before, after.shape).astype(np.float64), after.astype(np.float64)
    terms = [(w - w0) ** 2, w0**2, w**2, w * w0, w * w0 < 0]
    np.testing.assert_allclose(
        np.broadcast_to(whole.terms, (5, 2)), [t.reshape(2, -1).sum(1) for t in terms], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(whole.peaks[0], np.abs(w - w0).reshape(2, -1).max(1, initial=0), rtol=1e-6)
    assert float(whole.num_values) == np.prod(shape)
    if len(shape) > 1:
        by_filter = [np.broadcast_to(t, w.shape).reshape(2, -1, shape[-1]).sum(1) for t in terms]
        np.testing.assert_allclose(
            np.broadcast_to(of_filters.terms, (5, 2, shape[-1])), by_filter, rtol=1e-5, atol=1e-6
        )


def test_signs_of_small_and_large_values():
    values = np.float32([1e-35, -1e-35, 1e35, 0, 1e-35, np.nan])
    flipped = np.float32([-1e-35, 1e35, -1e35, -1, 1e35, -1])
    assert changes({"w": values}, {"w": flipped})["leaf"]["w"]["sign_flips"] == 0.5


def test_half_precision_is_summed_in_float32():
    before = {"w": jnp.zeros((300, 300), jnp.bfloat16)}
    after = {"w": jnp.ones((300, 300), jnp.bfloat16)}
    assert changes(before, after)["leaf"]["w"]["l2"] == 300
