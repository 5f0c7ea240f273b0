"""Paths of weights over snapshots."""

import jax
import numpy as np
import pytest

from jaxft.analysis.trajectory import trajectory

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_trajectory_by_hand():
    # (0, 0) -> (3, 4) -> (3, 0): steps of 5 and 4, a path of 9, a distance of 3.
    points = [np.array(p, np.float32) for p in ([0, 0], [3, 4], [3, 0])]
    path = trajectory({"a": {"kernel": p}, "b": {"kernel": 0 * p + 1}} for p in points)
    assert path.names == ("a", "b", "total")
    np.testing.assert_allclose(path.step_lengths, [[5, 0, 5], [4, 0, 4]])
    np.testing.assert_allclose(path.update_ratios, [[np.inf, 0, 5 / np.sqrt(2)], [0.8, 0, 4 / np.sqrt(27)]])
    np.testing.assert_allclose(path.path_length, [9, 0, 9])
    np.testing.assert_allclose(path.straightness, [1 / 3, np.nan, 1 / 3])


def test_trajectory_of_many_runs_is_that_of_each():
    snapshots = [{"a": {"w": normal(2, 3), "b": normal(2)}} for _ in range(4)]
    runs = trajectory(snapshots, has_runs=True)
    for run in range(2):
        one = trajectory([jax.tree.map(lambda x: x[run], tree) for tree in snapshots])  # noqa: B023
        for array, expected in zip(runs[1:], one[1:]):
            np.testing.assert_allclose(array[..., run], expected, rtol=1e-6)
    straight = trajectory({"w": np.full(3, t, np.float32)} for t in range(5))
    np.testing.assert_allclose(straight.straightness, 1)
    with pytest.raises(ValueError, match="at least two snapshots"):
        trajectory(snapshots[:1])
    with pytest.raises(ValueError, match="only one of the two trees"):
        trajectory([{"a": normal(2)}, {"b": normal(2)}])
