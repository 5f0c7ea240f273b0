"""Spectra of changes, against NumPy in float64 and by hand."""

import numpy as np
import pytest

from jaxft.analysis.spectra import spectra

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_spectra_against_numpy():
    before = {"conv": normal(3, 3, 2, 4), "dense": normal(3, 8), "bias": normal(4)}
    after = {name: leaf[None] + 1e-3 * normal(2, *leaf.shape) for name, leaf in before.items()}
    found = spectra(before, after, 5)
    assert set(found) == {"conv", "dense"}
    for name, spectrum in found.items():
        for run in range(2):
            delta = after[name][run].astype(np.float64) - before[name]
            s = np.linalg.svd(delta.reshape(-1, delta.shape[-1]), compute_uv=False)
            s = np.pad(s, (0, 5))[:5]
            assert spectrum.stable_rank[run] == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-3)
            np.testing.assert_allclose(spectrum.energy[run], np.cumsum(s**2) / (s**2).sum(), rtol=1e-3)
            np.testing.assert_allclose(spectrum.singular_values[run], s, rtol=1e-3, atol=1e-7)


def test_spectra_by_hand_and_of_constant_leaves():
    # diag(3, 4): stable rank 25 / 16, energies 16/25 and 1. A matrix of rank 1 has stable rank 1.
    zero = {"kernel": np.zeros((2, 2), np.float32)}
    found = spectra(zero, {"kernel": np.diag([3, 4]).astype(np.float32)}, 2)["kernel"]
    assert found.stable_rank == pytest.approx(25 / 16)
    np.testing.assert_allclose(found.energy, [16 / 25, 1], rtol=1e-6)
    tiny = spectra(zero, {"kernel": np.full((2, 2), 1e-30, np.float32)}, 1)["kernel"]  # squares would underflow
    assert tiny.stable_rank == pytest.approx(1) and tiny.singular_values[0] == pytest.approx(2e-30)
    assert np.isnan(spectra(zero, zero)["kernel"].stable_rank)
    assert np.isnan(spectra(zero, {"kernel": np.full((2, 2), np.nan, np.float32)})["kernel"].energy).all()
    assert spectra({}, {}) == {}
    with pytest.raises(ValueError, match="at least 1"):
        spectra(zero, zero, 0)
