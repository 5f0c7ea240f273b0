"""Sums and maxima of the compiled code, with those of NumPy in float64."""

import numpy as np
import pytest

from jaxft.ops import change_sums as module
from jaxft.ops.change_sums import Leaf, change_sums
from jaxft.ops.native import Unavailable


@pytest.fixture(autouse=True)
def needs_compiled_code():
    """Skips the tests without a compiler."""
    try:
        module.load()
    except Unavailable as reason:
        pytest.skip(f"there is no compiled code: {reason}")


def draw(shape, num_runs, own_starts=False, seed=0):
    rng = np.random.default_rng(seed)
    before = rng.standard_normal((num_runs if own_starts else 1, *shape)).astype(np.float32)
    after = (before + 0.5 * rng.standard_normal((num_runs, *shape))).astype(np.float32)
    after[:, ..., :1] = 0  # a zero has no sign
    return before, after


def in_numpy(leaf):
    """Returns [6, R, filters] in float64."""
    before, after = np.broadcast_arrays(*(np.asarray(part, np.float64) for part in (leaf.before, leaf.after)))
    flips = np.sign(after) * np.sign(before) < 0
    terms = np.stack([(after - before) ** 2, before**2, after**2, after * before, flips, abs(after - before)])
    if leaf.filter_axis is None:
        rows = terms[:, :, None]
    else:
        rows = np.moveaxis(terms, leaf.filter_axis + 2 if leaf.filter_axis >= 0 else -1, 2)
    axes = tuple(range(3, rows.ndim))
    return np.concatenate([rows[:5].sum(axes), rows[5:].max(axes, initial=0)])


SHAPES = [
    ((3, 3, 16, 24), -1),  # several filters in a row of the sums
    ((3, 3, 5, 7), -1),  # with a rest
    ((700, 1500), -1),  # more filters than are summed together, and more rows
    ((64, 1024), -1),
    ((65, 1025), -1),
    ((24, 16, 3, 3), 0),
    ((3, 100_000), 0),
    ((5, 300_000), 0),  # several pieces of work
    ((4, 6, 50), 1),
    ((1000, 1), -1),
    ((7,), None),
    ((300, 300), None),
    ((), None),
    ((0, 5), -1),
    ((5, 0), -1),
    ((2, 3, 0, 4), -1),
]


@pytest.mark.parametrize("own_starts", [False, True])
@pytest.mark.parametrize(("shape", "filter_axis"), SHAPES)
def test_all_layouts_have_the_sums_of_numpy(shape, filter_axis, own_starts):
    leaf = Leaf(*draw(shape or (1,), 3, own_starts), filter_axis)
    if not shape:
        leaf = Leaf(leaf.before[..., 0], leaf.after[..., 0], None)
    sums = change_sums([leaf])
    assert sums.dtype == np.float64
    expected = in_numpy(leaf)
    np.testing.assert_allclose(sums[[0, 1, 2, 4, 5]], expected[[0, 1, 2, 4, 5]], rtol=3e-6)
    np.testing.assert_allclose(sums[3], expected[3], atol=3e-6 * expected[2].max(initial=1))


def test_several_leaves_and_lists_of_runs():
    pairs = [(draw((3, 3, 4, 6), 4, seed=1), -1), (draw((6,), 4, seed=2), None), (draw((40, 9), 4, seed=3), 0)]
    leaves = [Leaf(*arrays, axis) for arrays, axis in pairs]
    sums = change_sums(leaves)
    np.testing.assert_allclose(sums, np.concatenate([in_numpy(leaf) for leaf in leaves], -1), rtol=1e-4, atol=1e-5)
    separate = [Leaf(leaf.before, list(leaf.after), leaf.filter_axis) for leaf in leaves]
    np.testing.assert_array_equal(change_sums(separate), sums)


def test_the_number_of_threads_does_not_change_the_sums(monkeypatch):
    leaves = [Leaf(*draw((200, 3000), 2, seed=seed), axis) for seed, axis in ((0, -1), (1, 0), (2, None))]
    expected = change_sums(leaves)
    monkeypatch.setattr(module, "num_cores", lambda: 5)
    np.testing.assert_array_equal(change_sums(leaves), expected)


def test_arrays_that_are_not_dense_or_not_aligned_are_copied():
    before, after = draw((6, 5, 8), 2)
    expected = change_sums([Leaf(before[..., ::2].copy(), after[..., ::2].copy(), -1)])
    np.testing.assert_array_equal(change_sums([Leaf(before[..., ::2], after[..., ::2], -1)]), expected)
    memory = np.frombuffer(b"x" + after.tobytes(), np.uint8)[1:]
    unaligned = memory.view(np.float32).reshape(after.shape)
    assert not unaligned.flags.aligned
    np.testing.assert_array_equal(change_sums([Leaf(before, unaligned, -1)]), change_sums([Leaf(before, after, -1)]))


@pytest.mark.parametrize(("shape", "filter_axis"), [((100, 3), -1), ((3, 100), 0)])
def test_nan_and_infinite_values_stay_in_their_filter(shape, filter_axis):
    before, after = draw(shape, 2)
    rows = np.moveaxis(after, -1 if filter_axis == -1 else 1, 1)
    rows[0, 0, 3], rows[1, 2, 99] = np.nan, np.inf
    sums = change_sums([Leaf(before, after, filter_axis)])
    assert np.isnan(sums[[0, 2, 3, 5], 0, 0]).all()
    assert np.isposinf(sums[[0, 2, 5], 1, 2]).all()
    is_affected = np.zeros((2, 3), bool)
    is_affected[0, 0] = is_affected[1, 2] = True
    assert np.isfinite(sums[:, ~is_affected]).all() and np.isfinite(sums[1]).all() and np.isfinite(sums[4]).all()


def test_signs_of_the_smallest_numbers():
    tiny = np.float32(1e-45)
    before = np.array([[tiny, -tiny, tiny, 0, -0.0]], np.float32)
    after = np.array([[-tiny, -tiny, 0, -tiny, tiny]], np.float32)
    assert change_sums([Leaf(before, after, None)])[4].tolist() == [[1]]
