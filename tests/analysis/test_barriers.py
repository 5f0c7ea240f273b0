"""Loss barriers on lines between networks, and losses in planes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.analysis.barriers import between, loss_barrier, loss_plane, pair_barriers

RNG = np.random.default_rng(1)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_barriers_by_hand():
    # L = (x^2 - 1)^2 between x = -1 and x = 1: 0 at the ends and 1 in the middle.
    def loss(variables):
        return (variables["x"] ** 2 - 1) ** 2

    ends = {"x": jnp.float32(-1)}, {"x": jnp.float32(1)}
    line = loss_barrier(loss, *ends, alphas=(0, 0.25, 0.5, 1))
    assert line.barrier == pytest.approx(1) and line.losses.tolist() == [0, 0.5625, 1, 0]
    assert loss_barrier(lambda variables: 3.0, *ends).barrier == 0
    assert loss_barrier(lambda v: 2 * v["x"] + 1, *ends).barrier == pytest.approx(0, abs=1e-6)  # a linear loss
    assert loss_barrier(loss, *ends, recalibrate=lambda v: {"x": jnp.ones_like(v["x"])}).barrier == 0
    matrix = pair_barriers(loss, [*ends, {"x": jnp.float32(1)}])
    np.testing.assert_allclose(matrix, [[0, 1, 1], [1, 0, 0], [1, 0, 0]], atol=1e-6)
    assert pair_barriers(loss, []).shape == (0, 0)
    assert np.isnan(loss_barrier(lambda v: jnp.where(v["x"] == 0, np.nan, 0), *ends).barrier)
    for alphas in ((), (-0.1,), (2,)):
        with pytest.raises(ValueError, match="between 0 and 1"):
            loss_barrier(loss, *ends, alphas=alphas)


def test_between_keeps_leaves_that_are_not_floats():
    first = {"w": normal(2), "count": np.array(3), "activation": np.tanh}
    second = first | {"w": first["w"] + 2, "count": np.array(5)}
    middle = between(first, second, 0.5)
    np.testing.assert_allclose(middle["w"], first["w"] + 1, rtol=1e-6)
    assert middle["count"] == 3 and middle["activation"] is np.tanh
    np.testing.assert_array_equal(between(first, second, 1.0)["w"], second["w"])


def test_plane_through_three_points():
    # A quadratic loss around the origin in the plane z = 5: the losses follow from the coordinates.
    points = [np.array(p, np.float32) for p in ([1, 1, 5], [5, 1, 5], [3, 4, 5])]
    plane = loss_plane(lambda v: (v["p"] ** 2).sum(), [{"p": p} for p in points], (4, 5), margin=0)
    np.testing.assert_allclose(plane.points, [[0, 0], [4, 0], [2, 3]], atol=1e-6)
    np.testing.assert_allclose(plane.x, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(plane.y, [0, 1, 2, 3], atol=1e-6)
    expected = (1 + plane.x[None]) ** 2 + (1 + plane.y[:, None]) ** 2 + 25
    np.testing.assert_allclose(plane.losses, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="on one line"):
        loss_plane(lambda v: 0, [{"p": points[0] * i} for i in range(3)])
    with pytest.raises(ValueError, match="needs three networks"):
        loss_plane(lambda v: 0, [{"p": points[0]}])
