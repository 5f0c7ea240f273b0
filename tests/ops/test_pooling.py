"""Poolings of maps, against numbers by hand and the formulas they come from."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.ops.pooling import POOLINGS, bins, cross_layer

MAP = jnp.asarray(np.random.Generator(np.random.PCG64(0)).normal(size=(2, 4, 4, 3)), jnp.float32)


def pool(name):
    return POOLINGS[name].value.apply


def normalized(x):
    """Returns the signed square root, scaled to norm 1."""
    root = np.sign(x) * np.sqrt(np.abs(x))
    return root / np.linalg.norm(root)


def test_average_and_maximum():
    x = jnp.arange(8.0).reshape(1, 2, 2, 2)
    np.testing.assert_allclose(pool("average")(x), [[3, 4]])
    np.testing.assert_allclose(pool("max")(x), [[6, 7]])


def test_bins_cover_a_side_that_they_do_not_divide():
    assert bins(13, 6) == [(0, 3), (2, 5), (4, 7), (6, 9), (8, 11), (10, 13)]  # He 2014: floor and ceiling
    assert bins(6, 3) == [(0, 2), (2, 4), (4, 6)]


def test_a_pyramid_has_the_maxima_of_its_bins():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    # 1; 2 x 2; 3 x 3 of bins 0-1, 1-2, 2-3; the map has no 6 x 6.
    expected = [15, 5, 7, 13, 15, 5, 6, 7, 9, 10, 11, 13, 14, 15]
    np.testing.assert_allclose(pool("pyramid")(x), [expected])


def test_a_pyramid_of_a_large_map_has_fifty_bins():
    assert pool("pyramid")(jnp.zeros((1, 13, 13, 4))).shape == (1, 200)


@pytest.mark.parametrize("name", ["bilinear", "covariance"])
def test_second_order_poolings_have_the_inner_products_of_full_matrices(name):
    whole = []
    for places in np.asarray(MAP, np.float64).reshape(2, 16, 3):
        matrix = places.T @ places / 16 if name == "bilinear" else np.cov(places.T, bias=True)
        whole.append(normalized(matrix.ravel()))
    pooled = np.asarray(pool(name)(MAP))
    assert pooled.shape == (2, 6)
    np.testing.assert_allclose(pooled @ pooled.T, np.array(whole) @ np.array(whole).T, atol=1e-5)
    np.testing.assert_allclose(pooled[0, [0, 3, 5]], whole[0][[0, 4, 8]], atol=1e-5)  # the diagonal


def test_a_covariance_does_not_depend_on_the_mean():
    np.testing.assert_allclose(pool("covariance")(MAP + 3.0), pool("covariance")(MAP), atol=1e-2)


def test_the_pooling_of_zeros_is_zero():
    assert not np.asarray(pool("bilinear")(jnp.zeros((1, 2, 2, 3)))).any()


def test_cross_layer_pooling_weights_the_lower_map_by_the_upper_map():
    below, above = MAP[:1], jnp.abs(MAP[:1, :, :, :2])
    sums = np.einsum("pc,pk->kc", np.asarray(below).reshape(16, 3), np.asarray(above).reshape(16, 2))
    np.testing.assert_allclose(cross_layer(below, above)[0], normalized(sums.ravel()), atol=1e-5)


def test_a_larger_lower_map_is_averaged_to_the_size_of_the_upper_map():
    above = MAP[:, :2, :2, :2]
    quarters = MAP.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
    np.testing.assert_allclose(cross_layer(MAP, above), cross_layer(quarters, above), atol=1e-6)
