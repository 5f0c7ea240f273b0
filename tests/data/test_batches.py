"""Batches as index arrays, and the weights of classes in the loss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.batches import (
    StepRange,
    balanced_indices,
    batch_indices,
    class_weights,
    epoch_ends,
    num_steps,
    padded_batches,
    permutation,
    permutations,
)


@pytest.mark.parametrize(
    ("images", "epochs", "batch", "steps", "ends"),
    [
        (50, 1, 32, 1, [1]),  # 50 / 32 = 1.56
        (50, 3, 32, 4, [1, 3, 4]),  # 1.56, 3.13, 4.69
        (50, 2.5, 32, 3, [1, 3]),  # 1.56, 3.13; 2.5 epochs are 3.91
        (50, 0.5, 32, 0, []),
        (10, 3, 32, 0, []),
        (10, 7, 32, 2, [1, 2]),  # 70 / 32 = 2.19; the first full batch is in the 4th epoch
        (64, 2, 32, 4, [2, 4]),
        (100, 0.29, 29, 1, [1]),  # 0.29 * 100 is 28.999999999999996 in floating point
        (30, 1.1, 11, 3, [2, 3]),
    ],
)
def test_steps_and_ends_of_epochs_by_hand(images, epochs, batch, steps, ends):
    assert num_steps(images, epochs, batch) == steps
    assert epoch_ends(images, steps, batch) == ends


@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 2**32))
def test_complete_epochs_contain_every_image_equally_often(n, batch, seed):
    rows = np.arange(100, 100 + n)
    indices = batch_indices(rows, seed, StepRange(0, n, batch))  # n steps are `batch` epochs
    assert indices.shape == (n, batch) and indices.dtype == np.int32
    assert np.bincount(indices.ravel() - 100, minlength=n).tolist() == [batch] * n


@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 9))
def test_each_epoch_is_a_permutation_and_epochs_differ(n, batch, seed):
    passes = batch_indices(np.arange(n), seed, StepRange(0, n, batch)).reshape(-1)[: n * batch].reshape(batch, n)
    assert (np.sort(passes, axis=1) == np.arange(n)).all()
    if n >= 20:
        assert len({tuple(order) for order in passes}) == batch


@given(st.integers(1, 40), st.integers(1, 45), st.integers(1, 9), st.integers(1, 9))
def test_a_later_range_continues_the_same_stream(n, batch, first, second):
    rows = np.arange(n) * 3
    whole = batch_indices(rows, 7, StepRange(0, first + second, batch))
    assert (batch_indices(rows, 7, StepRange(0, first, batch)) == whole[:first]).all()
    assert (batch_indices(rows, 7, StepRange(first, second, batch)) == whole[first:]).all()


def test_seeds_have_different_orders():
    orders = {tuple(batch_indices(np.arange(30), seed, StepRange(0, 1, 30))[0]) for seed in range(10)}
    assert len(orders) == 10


def test_an_order_has_its_recorded_values():
    # From numpy.random.PCG64(int.from_bytes(sha256(b"order:0:0").digest()[:16], "little")).random_raw(8).argsort()
    assert permutation("order:0:0", 8).tolist() == [0, 3, 5, 1, 7, 6, 2, 4]
    assert batch_indices(np.arange(8), 0, StepRange(0, 2, 4)).tolist() == [[0, 3, 5, 1], [7, 6, 2, 4]]


def test_padded_batches_by_hand():
    batches, mask = padded_batches(np.array([4, 7, 9, 2, 5]), 3)
    assert batches.tolist() == [[4, 7, 9], [2, 5, 0]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]
    assert batches.dtype == np.int32


@given(st.lists(st.integers(0, 99), max_size=20), st.integers(1, 8))
def test_padded_batches_contain_every_row_once(rows, batch):
    batches, mask = padded_batches(np.array(rows, np.int32), batch)
    assert batches.shape == mask.shape == (-(-len(rows) // batch), batch)
    assert batches[mask].tolist() == rows


# --- classes evenly ---------------------------------------------------------------------------------------------

COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def labeled(counts):
    """Returns rows that do not start at 0, and labels of all images, so that class i has counts[i] of the rows."""
    labels = np.concatenate([np.full(3, 77), np.repeat(np.arange(len(counts)), counts)])
    return np.arange(3, len(labels)), labels


@given(COUNTS, st.integers(1, 20), st.integers(0, 2**32))
def test_a_balanced_stream_has_all_classes_equally_often(counts, batch, seed):
    rows, labels = labeled(counts)
    steps = 2 * len(counts)  # whole rounds: each has every class once
    drawn = balanced_indices(rows, labels, seed, StepRange(0, steps, batch))
    assert drawn.shape == (steps, batch) and drawn.dtype == np.int32
    assert np.bincount(labels[drawn.ravel()], minlength=len(counts)).tolist() == [2 * batch] * len(counts)
    of_batches = np.array([np.bincount(labels[one], minlength=len(counts)) for one in drawn])
    assert (of_batches.max(1) - of_batches.min(1)).max() <= 2
    if batch % len(counts) == 0:
        assert (of_batches == batch // len(counts)).all()


@given(COUNTS, st.integers(1, 20), st.integers(0, 9))
def test_the_images_of_a_class_come_in_epochs(counts, batch, seed):
    rows, labels = labeled(counts)
    stream = balanced_indices(rows, labels, seed, StepRange(0, 3 * len(counts), batch)).ravel()
    for label, count in enumerate(counts):
        own = stream[labels[stream] == label]
        for begin in range(0, len(own) - count + 1, count):
            assert sorted(own[begin : begin + count]) == rows[labels[rows] == label].tolist()


@given(COUNTS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_a_later_range_continues_the_same_balanced_stream(counts, batch, first, second, views):
    rows, labels = labeled(counts)
    whole = balanced_indices(rows, labels, 7, StepRange(0, first + second, batch, views, len(labels)))
    assert (balanced_indices(rows, labels, 7, StepRange(0, first, batch, views, len(labels))) == whole[:first]).all()
    assert (
        balanced_indices(rows, labels, 7, StepRange(first, second, batch, views, len(labels))) == whole[first:]
    ).all()


def test_each_epoch_of_a_class_has_the_next_view():
    """One class of two images, ten in all: passes of two, of the images themselves, then of their first views."""
    rows, labels = np.array([4, 6]), np.zeros(10, int)
    plain = balanced_indices(rows, labels, 0, StepRange(0, 4, 2))
    views = balanced_indices(rows, labels, 0, StepRange(0, 4, 2, views=2, num_images=10))
    assert (views - plain).tolist() == [[0, 0], [10, 10], [0, 0], [10, 10]]


def test_a_balanced_order_has_its_recorded_values():
    """Two classes of 1 and 2 images: rounds of two, and the image of the small class in each of them."""
    # numpy.random.PCG64(int.from_bytes(sha256(b"order:0:classes").digest()[:16], "little")).random_raw(8).reshape(4, 2)
    # and the like of b"order:0:class:1" in order: [[0, 1], [0, 1]]
    assert permutations("order:0:classes", range(4), 2).tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    drawn = balanced_indices(np.arange(3), np.array([0, 1, 1]), 0, StepRange(0, 4, 2))
    assert drawn.tolist() == [
        [0, 1],
        [0, 2],
        [1, 0],
        [2, 0],
    ]


def test_orders_from_the_middle_of_a_stream():
    whole = permutations("a stream", range(9), 5)
    assert (permutations("a stream", range(4, 9), 5) == whole[4:]).all()
    assert (permutation("a stream", 5) == whole[0]).all()


# --- weights of classes -----------------------------------------------------------------------------------------


def test_inverse_weights_by_hand():
    """Of 1 and 3 images: weights in the ratio 3 to 1, and w0 + 3 w1 = 4."""
    weights = class_weights(np.array([0, 1, 1, 1]), 2, "inverse", 0.9)
    np.testing.assert_allclose(weights, [2, 2 / 3], rtol=1e-6)
    assert weights.dtype == np.float32


def test_effective_numbers_by_hand():
    """With beta 1/2, 1 and 3 images are 1 and 1.75 effective ones: the ratio is 1.75, and w0 + 3 w1 = 4."""
    weights = class_weights(np.array([0, 1, 1, 1]), 2, "effective", 0.5)
    np.testing.assert_allclose(weights, [4 * 1.75 / 4.75, 4 / 4.75], rtol=1e-6)


def test_effective_weights_range_from_uniform_to_inverse_weights():
    labels = np.repeat([0, 1, 2], [5, 50, 500])
    inverse, none, almost = (
        class_weights(labels, 3, *way) for way in (("inverse", 0.0), ("effective", 0.0), ("effective", 1 - 1e-9))
    )
    np.testing.assert_allclose(none, 1, rtol=1e-6)
    np.testing.assert_allclose(almost, inverse, rtol=1e-5)


@given(COUNTS, st.sampled_from(["inverse", "effective"]), st.floats(0, 0.9999))
def test_weights_have_mean_one_over_the_images(counts, weighting, beta):
    rows, labels = labeled(counts)
    weights = class_weights(labels[rows], len(counts), weighting, beta)
    assert weights[labels[rows]].mean() == pytest.approx(1, rel=1e-5)


def test_a_class_without_images_has_weight_zero():
    assert class_weights(np.array([0, 0, 2]), 3, "inverse", 0.9)[1] == 0
