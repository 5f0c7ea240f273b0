"""Statistics of units, their top images, receptive fields and ablation, against NumPy, scikit-learn and by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from jaxft.analysis.ablation import ablation
from jaxft.analysis.receptive_fields import patches, receptive_fields
from jaxft.analysis.top_images import TopImages, label_entropy, most_changed_units, top_images, top_jaccard
from jaxft.analysis.unit_statistics import PairSums, UnitSums, average_precision, pair_sums, responses, unit_sums
from jaxft.models import create_model

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 4, 50)
MAPS = np.maximum(RNG.normal(size=(50, 3, 5, 6)), 0).astype(np.float32)  # 50 images, 6 units


def streamed(function, plus, maps=MAPS, labels=LABELS, size=7):
    batches = [slice(begin, begin + size) for begin in range(0, len(maps), size)]
    return functools.reduce(plus, (function(maps[rows], labels[rows], rows.start) for rows in batches))


def sums_of(maps, labels, num_classes=4, reduction="max", size=7):
    return streamed(
        lambda a, y, _: unit_sums(responses(a), y, num_classes, reduction), UnitSums.plus, maps, labels, size
    )


def tops_of(maps, labels, count=9, size=7):
    return streamed(lambda a, y, start: top_images(responses(a), y, count, start), TopImages.plus, maps, labels, size)


def columns(*activations):
    """Returns the responses of n images [n, c] from the activations of each unit."""
    return responses(np.array(activations, np.float32).T)


# --- selectivity, sparsity, dead units ------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_streamed_statistics_against_numpy(reduction):
    sums = sums_of(MAPS, LABELS, reduction=reduction)
    r = getattr(MAPS.astype(np.float64), reduction)((1, 2))
    means = np.stack([r[k == LABELS].mean(0) for k in range(4)])
    in_order = np.sort(means, 0)
    largest, others = in_order[-1], in_order[:-1].mean(0)
    n = len(r)
    np.testing.assert_allclose(sums.class_means, means, rtol=1e-6)
    np.testing.assert_allclose(sums.selectivity, (largest - others) / (largest + others), rtol=1e-5)
    sparsity = (1 - r.mean(0) ** 2 / (r**2).mean(0)) / (1 - 1 / n)
    np.testing.assert_allclose(sums.sparsity, sparsity, rtol=1e-5)
    assert sums.fraction_dead == 0 and sums.num_images == 50


def test_statistics_do_not_depend_on_the_batches():
    whole, parts = sums_of(MAPS, LABELS, size=50), sums_of(MAPS, LABELS, size=3)
    for a, b in zip(whole, parts):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_selectivity_by_hand():
    # class means of the units: (4, 2, 0), (1, 1, 1), (0, 0, 5), (0, 0, 0), and a unit that is negative once
    activations = columns([4, 4, 2, 0], [1, 1, 1, 1], [0, 0, 0, 5], [0, 0, 0, 0], [1, 1, 1, -1])
    sums = unit_sums(activations, np.array([0, 0, 1, 2]), 3)
    np.testing.assert_allclose(sums.selectivity, [(4 - 1) / (4 + 1), 0, 1, np.nan, np.nan])
    assert sums.is_dead.tolist() == [False, False, False, True, False] and sums.fraction_dead == 0.2


def test_sparsity_by_hand():
    # equal; one image of four; A = (6 / 4)^2 / (20 / 4) = 0.45; dead
    activations = columns([2, 2, 2, 2], [0, 0, 7, 0], [4, 2, 0, 0], [0, 0, 0, 0])
    sums = unit_sums(activations, np.zeros(4, int), 1)
    np.testing.assert_allclose(sums.sparsity, [0, 1, 0.55 / 0.75, np.nan])
    assert np.isnan(sums.selectivity).all()  # one class


def test_a_unit_is_dead_only_if_it_is_0_at_all_positions():
    maps = np.zeros((2, 2, 2, 2), np.float32)
    maps[1, 1, 0, 0], maps[:, :, :, 1] = 0.5, -1
    sums = unit_sums(responses(maps - np.float32(0.2)), np.array([0, 0]), 1, "mean")  # the mean of unit 0 is negative
    assert sums.is_dead.tolist() == [False, True]


def test_images_without_a_label_and_absent_classes():
    activations = columns([4, 4, 2, 9])
    sums = unit_sums(activations, np.array([0, 0, 2, -1]), 4)
    np.testing.assert_allclose(sums.class_means[:, 0], [4, np.nan, 2, np.nan])
    np.testing.assert_allclose(sums.selectivity, [(4 - 2) / (4 + 2)])
    assert sums.total.tolist() == [19] and sums.num_images == 4


def test_an_unknown_reduction():
    with pytest.raises(ValueError, match="'max' or 'mean'"):
        unit_sums(responses(MAPS), LABELS, 4, "sum")


def test_one_image():
    sums = unit_sums(columns([2.0]), np.array([0]), 2)
    assert np.isnan(sums.sparsity).all() and np.isnan(sums.selectivity).all() and sums.fraction_dead == 0


def test_low_precision_activations_are_summed_in_full_precision():
    activations = jnp.full((3000, 1, 1, 1), 1.25, jnp.bfloat16)
    assert unit_sums(responses(activations), np.zeros(3000, int), 1).total.tolist() == [3750]


def test_the_position_of_the_largest_activation():
    reduced = responses(MAPS)
    flat = MAPS.reshape(50, 15, 6)
    assert (reduced.positions @ [5, 1] == flat.argmax(1)).all() and (reduced.maximum == flat.max(1)).all()


@pytest.mark.parametrize(
    ("activations", "labels", "message"),
    [
        (np.full((2, 3), np.nan), [0, 1], "activations of 3 of 3 units are not finite"),
        (np.array([[1, np.inf]]), [0], "activations of 1 of 2 units are not finite"),
        (np.ones((2, 3, 4)), [0, 1], r"shape \[2, 3, 4\]; it must be"),
        (np.ones((0, 3)), [], "without an empty axis"),
        (np.ones((2, 3)), [0, 2], r"\[2\] integers below 2"),
        (np.ones((2, 3)), [0], r"\[2\] integers below 2"),
        (np.ones((2, 3)), [0.0, 1.0], "dtype float64"),
    ],
)
def test_wrong_activations_or_labels(activations, labels, message):
    with pytest.raises(ValueError, match=message):
        unit_sums(responses(np.asarray(activations, np.float32)), np.array(labels), 2)


# --- average precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [1, 64 * 50 * 4, 2**28])
def test_average_precision_against_scikit_learn_with_ties(max_bytes):
    values = np.concatenate([RNG.normal(size=(50, 3)), RNG.integers(0, 4, (50, 3)), np.ones((50, 1))], 1)
    precisions = average_precision(values, LABELS, 4, max_bytes)
    expected = [[average_precision_score(k == LABELS, column) for column in values.T] for k in range(4)]
    np.testing.assert_allclose(precisions, expected, rtol=1e-12)
    np.testing.assert_allclose(precisions[:, -1], np.bincount(LABELS) / 50)  # of a constant unit


def test_average_precision_by_hand():
    # in order: class 1, 0, 1; precision 1 at the first image and 2/3 at the last one
    precisions = average_precision(columns([3.0, 2.0, 1.0, 5.0]).maximum, np.array([1, 0, 1, -1]), 3)
    np.testing.assert_allclose(precisions[:, 0], [1 / 2, (1 + 2 / 3) / 2, np.nan])
    assert np.isnan(average_precision(np.ones((2, 1)), np.array([-1, -1]), 1)).all()


def test_average_precision_of_nan():
    with pytest.raises(ValueError, match=r"must be \[n, c\] and finite"):
        average_precision(np.array([[np.nan]]), np.array([0]), 1)


# --- top images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 50])
def test_streamed_top_images_are_those_of_a_full_sort(size):
    maps = np.round(MAPS)  # with ties
    top = tops_of(maps, LABELS, 9, size)
    flat = maps.reshape(50, 15, 6)
    for unit in range(6):
        order = sorted(range(50), key=lambda i: (-flat[i, :, unit].max(), i))[:9]
        assert top.images[:, unit].tolist() == order
        assert (top.activations[:, unit] == flat[order, :, unit].max(1)).all()
        assert (top.labels[:, unit] == LABELS[order]).all()
        rows, cols = top.positions[:, unit].T
        assert (maps[order, rows, cols, unit] == top.activations[:, unit]).all()


def test_fewer_images_than_asked():
    top = tops_of(MAPS[:3], LABELS[:3], 5, 2)
    assert (np.sort(top.images[:3], 0) == np.arange(3)[:, None]).all() and (top.images[3:] == -1).all()
    assert (top.activations[3:] == -np.inf).all() and not top.is_active[3:].any()


def test_label_entropy_by_hand():
    # labels of the active images: one class; two classes, evenly; three of four; dead; without a label
    labels = np.array([0, 0, 1, 1])
    activations = columns([3, 2, 0, 0], [3, 0, 1, 0], [3, 2, 1, 0], [0, 0, 0, 0])
    entropies = label_entropy(top_images(activations, labels, 4))
    thirds = -(2 / 3 * np.log2(2 / 3) + 1 / 3 * np.log2(1 / 3))
    np.testing.assert_allclose(entropies, [0, 1, thirds, np.nan])
    assert np.isnan(label_entropy(top_images(activations, -np.ones(4, int), 4))).all()


def test_jaccard_and_the_most_changed_units():
    before = top_images(columns([4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1], [0, 0, 0, 0]), np.zeros(4, int), 2)
    after = top_images(columns([9, 8, 7, 6], [1, 2, 3, 4], [4, 0, 8, 0], [0, 0, 0, 0]), np.zeros(4, int), 2)
    np.testing.assert_allclose(top_jaccard(before, after), [1, 0, 1 / 3, np.nan])
    changed = most_changed_units(before, after, 9)
    assert [each.unit for each in changed] == [1, 2, 0]
    assert changed[0].kept == () and changed[0].lost == (0, 1) and changed[0].gained == (3, 2)
    assert changed[1].kept == (0,) and changed[1].lost == (1,) and changed[1].gained == (2,)
    by_correlation = most_changed_units(before, after, 1, np.array([0.5, 0.6, 0.1, np.nan]))
    assert by_correlation[0].unit == 2 and by_correlation[0].similarity == 0.1


def test_the_order_of_merging_does_not_matter():
    parts = [top_images(responses(MAPS[a:b]), LABELS[a:b], 4, a) for a, b in ((0, 20), (20, 30), (30, 50))]
    forward, backward = (functools.reduce(TopImages.plus, order) for order in (parts, parts[::-1]))
    assert all((a == b).all() for a, b in zip(forward, backward))


def test_wrong_top_images():
    top, narrow = (top_images(responses(maps), LABELS) for maps in (MAPS, MAPS[..., :2]))
    with pytest.raises(ValueError, match="`count` is 0"):
        top_images(responses(MAPS), LABELS, 0)
    for function in (top_jaccard, most_changed_units):
        with pytest.raises(ValueError, match="6 units before and 2 after"):
            function(top, narrow)
    with pytest.raises(ValueError, match="similarity has the shape"):
        most_changed_units(top, top, 1, np.ones(2))


def test_streamed_correlations_against_numpy():
    before = RNG.normal(size=(50, 6)).astype(np.float32) + np.float32(1000)
    after = before * np.float32([1, -1, 2, 0, 0.5, 1])[None] + RNG.normal(size=(50, 6)).astype(np.float32)
    before[:, 3] = 0.1  # constant
    batches = [pair_sums(before[i : i + 7], after[i : i + 7]) for i in range(0, 50, 7)]
    values = functools.reduce(PairSums.plus, batches).correlation
    moved = [0, 1, 2, 4, 5]
    expected = [np.corrcoef(before[:, i].astype(float), after[:, i].astype(float))[0, 1] for i in moved]
    np.testing.assert_allclose(values[moved], expected, rtol=1e-9)
    assert np.isnan(values[3])
    with pytest.raises(ValueError, match=r"must be \[n, c\]"):
        pair_sums(before, after[:, :2])


# --- receptive fields -----------------------------------------------------------------------------------------------


class Stack(nn.Module):
    """Convolutions (kernel, stride, padding), and max pools where the kernel is negative."""

    layers: tuple
    channels: int = 8

    @nn.compact
    def __call__(self, x):
        for kernel, stride, padding in self.layers:
            pad = ((padding, padding),) * 2
            if kernel < 0:
                x = nn.max_pool(x, (-kernel,) * 2, (stride,) * 2, pad)
            else:
                x = nn.relu(nn.Conv(self.channels, (kernel,) * 2, (stride,) * 2, pad)(x))
        return x


def fields_of(layers, shape):
    model = Stack(layers)
    variables = model.init(jax.random.key(0), jnp.zeros((1, *shape)))
    return receptive_fields(lambda x: model.apply(variables, x), shape)


def extents(layers, size, pixels):
    """Returns the extent of each of `size` positions: its last layer sees [p s - pad, p s - pad + k), and so on."""
    result = []
    for position in range(size):
        low, high = position, position + 1
        for kernel, stride, padding in reversed(layers):
            low, high = low * stride - padding, (high - 1) * stride - padding + abs(kernel)
        result.append([max(low, 0), min(high, pixels)])
    return result


def test_receptive_fields_of_two_convolutions_by_hand():
    # 3x3, stride 1, padding 1, and 3x3, stride 2, padding 1: 5 pixels at distance 2, from -2 to 3 at the first position
    fields = fields_of(((3, 1, 1), (3, 2, 1)), (8, 8, 3))
    assert fields.rows.tolist() == [[0, 3], [0, 5], [2, 7], [4, 8]]
    assert fields.boxes(np.array([[0, 1], [3, 2]])).tolist() == [[0, 0, 3, 5], [4, 2, 8, 7]]


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (((5, 1, 0), (3, 1, 0)), (12, 9, 1)),  # without padding, not square
        (((3, 1, 1), (3, 1, 1), (-2, 2, 0), (3, 1, 1), (3, 1, 1), (-2, 2, 0), (3, 1, 1)), (32, 32, 3)),  # VGG
        (((7, 2, 3), (-3, 2, 1), (3, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 1)), (64, 48, 3)),  # ResNet
    ],
)
def test_receptive_fields_of_stacks(layers, shape):
    fields = fields_of(layers, shape)
    assert fields.rows.tolist() == extents(layers, len(fields.rows), shape[0])
    assert fields.columns.tolist() == extents(layers, len(fields.columns), shape[1])


def test_receptive_fields_of_the_taps_of_a_network():
    model = create_model("toy", 3)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    for tap in model.taps:
        fields = receptive_fields(lambda x, tap=tap: model.apply(variables, x, stop=tap.block), (16, 16, 3))
        middle = fields.rows[len(fields.rows) // 2]
        assert middle[1] - middle[0] == min(tap.receptive_field_px, 16 - middle[0])


def test_the_receptive_field_of_global_operations_is_the_image():
    fields = receptive_fields(lambda x: x * x.mean((1, 2), keepdims=True), (4, 5, 1))
    assert fields.rows.tolist() == [[0, 4]] * 4 and fields.columns.tolist() == [[0, 5]] * 5


def test_activations_without_a_receptive_field():
    with pytest.raises(ValueError, match="row 0 of the activation depends on no pixel"):
        receptive_fields(lambda x: 0 * x, (4, 4, 1))
    with pytest.raises(ValueError, match=r"shape \[1, 4\]"):
        receptive_fields(lambda x: x.mean((1, 2)) @ jnp.ones((1, 4)), (4, 4, 1))


def test_patches_are_cut_out():
    images = np.arange(2 * 4 * 5).reshape(2, 4, 5, 1)
    first, second = patches(images, np.array([[0, 0, 2, 3], [3, 1, 4, 5]]))
    assert first[..., 0].tolist() == [[0, 1, 2], [5, 6, 7]] and second[..., 0].tolist() == [[36, 37, 38, 39]]
    for box in ([0, 0, 5, 5], [-1, 0, 2, 2], [2, 0, 2, 2]):
        with pytest.raises(ValueError, match="empty or not inside"):
            patches(images[:1], np.array([box]))
    with pytest.raises(ValueError, match="the shapes are"):
        patches(images, np.array([[0, 0, 1, 1]]))


# --- ablation -------------------------------------------------------------------------------------------------------


def pooled_scores(variables, activations):
    return activations.mean((1, 2)) @ variables


@pytest.mark.parametrize("max_bytes", [1, 10_000, 2**28])
def test_ablation_against_a_loop(max_bytes):
    kernel = RNG.normal(size=(6, 4)).astype(np.float32)

    def accuracy(maps):
        return np.mean((maps.astype(np.float64).mean((1, 2)) @ kernel).argmax(1) == LABELS)

    batches = [(MAPS[i : i + 20], LABELS[i : i + 20]) for i in range(0, 50, 20)]
    result = ablation(pooled_scores, kernel, batches, max_bytes=max_bytes)
    without = [accuracy(MAPS * (np.arange(6) != i).reshape(1, 1, 1, 6)) for i in range(6)]
    assert result.accuracy == pytest.approx(accuracy(MAPS))
    np.testing.assert_allclose(result.accuracies, without)
    np.testing.assert_allclose(result.drops, accuracy(MAPS) - np.array(without))
    some = ablation(pooled_scores, kernel, batches, [4, 1], max_bytes)
    assert some.accuracies.tolist() == result.accuracies[[4, 1]].tolist()


def test_ablation_by_hand():
    # unit 0 votes for class 0 and unit 1 for class 1; the third image has no label
    batches = [(np.array([[2, 1], [1, 2], [5, 0]], np.float32), np.array([0, 1, -1]))]
    result = ablation(lambda _, x: x, {}, batches)
    assert result.accuracy == 1 and result.drops.tolist() == [0.5, 0.5]


def test_ablation_without_images_or_units():
    with pytest.raises(ValueError, match="no images with a label"):
        ablation(pooled_scores, np.ones((6, 4)), [])
    with pytest.raises(ValueError, match="no images with a label"):
        ablation(pooled_scores, np.ones((6, 4), np.float32), [(MAPS, -np.ones(50, int))])
    with pytest.raises(ValueError, match="units from 0 to 5"):
        ablation(pooled_scores, np.ones((6, 4)), [(MAPS, LABELS)], [6])


def test_a_nan_score_is_no_correct_prediction():
    batches = [(np.ones((2, 1), np.float32), np.array([0, 0]))]
    assert ablation(lambda _, x: x * jnp.nan, {}, batches).accuracy == 0
