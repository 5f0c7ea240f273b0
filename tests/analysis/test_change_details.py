"""Filters, spectra, batch norm, trajectories and tables of the change, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.analysis import sums as sums_module
from jaxft.analysis.batch_norm import batch_norm_shifts, rms_shifts
from jaxft.analysis.filters import fraction_changed, most_changed
from jaxft.analysis.frames import change_frame, pair_frame
from jaxft.analysis.parameters import changes, filter_changes, leaf_sums
from jaxft.analysis.spectra import spectra
from jaxft.analysis.trajectory import trajectory
from jaxft.core.paths import float_leaves, layer_of

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_filters_that_changed_by_hand():
    # Filters of norm 5 change by 0, 1 and 10: relative changes of 0, 0.2 and 2; the last filter is zero before.
    before = {"kernel": np.array([[3, 3, 3, 0], [4, 4, 4, 0]], np.float32)}
    after = {"kernel": np.array([[[3, 4, 13, 0], [4, 4, 4, 1]], [[3, 3, 3, 0], [4, 4, 4, 0]]], np.float32)}
    by_leaf = filter_changes(before, after)
    assert fraction_changed(by_leaf, 0.3)["kernel"].tolist() == [0.5, 0]
    assert fraction_changed(by_leaf, 0.1)["kernel"].tolist() == [0.75, 0]
    table = most_changed(by_leaf, 2)
    assert table.query("run == 0")[["leaf", "filter", "value"]].values.tolist() == [
        ["kernel", 3, np.inf],
        ["kernel", 2, 2],
    ]
    assert most_changed({}, 2).empty
    with pytest.raises(ValueError, match="at least 1"):
        most_changed(by_leaf, 0)
    with pytest.raises(ValueError, match="no measure 'l3'"):
        most_changed(by_leaf, 1, "l3")


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


def test_filters_of_the_first_axis():
    before, after = {"weight": normal(4, 3, 2, 2)}, {"weight": normal(4, 3, 2, 2)}
    moved = [{"weight": np.moveaxis(tree["weight"], 0, -1)} for tree in (before, after)]
    first, last = filter_changes(before, after, filter_axis=0), filter_changes(*moved)
    np.testing.assert_allclose(first["weight"]["l2"], last["weight"]["l2"], rtol=1e-6)
    one, other = spectra(before, after, 3, filter_axis=0), spectra(*moved, 3)
    np.testing.assert_allclose(one["weight"].energy, other["weight"].energy, rtol=1e-6)


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


@pytest.mark.parametrize("kind", ["flax", "haiku", "torch"])
def test_batch_norm_shifts_of_each_quantity(kind):
    def variables(scale, bias, mean, var):
        arrays = [np.full(2, x, np.float32) for x in (scale, bias, mean, var)]
        if kind == "flax":
            params, stats = (
                {"scale": arrays[0], "bias": arrays[1]},
                {"mean": arrays[2], "var": arrays[3]},
            )
            return {"params": {"bn": params, "fc": {"bias": arrays[1]}}, "batch_stats": {"bn": stats}}
        if kind == "haiku":
            state = {"bn/~/mean_ema": {"average": arrays[2]}, "bn/~/var_ema": {"average": arrays[3]}}
            return {"params": {"bn": {"scale": arrays[0], "offset": arrays[1]}}, "state": state}
        names = "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"
        return dict(zip(names, arrays)) | {"fc.bias": arrays[1], "bn.num_batches_tracked": np.array(3)}

    shifts = batch_norm_shifts(variables(1, 0, 2, 4), variables(1.5, -1, 5, 8))
    assert list(shifts) == ["bn"] and list(shifts["bn"]) == ["scale", "bias", "mean", "log_variance"]
    for quantity, expected in {"scale": 0.5, "bias": -1, "mean": 3, "log_variance": np.log(2)}.items():
        np.testing.assert_allclose(shifts["bn"][quantity], [expected] * 2, rtol=1e-6)
    assert rms_shifts(shifts)["bn"]["bias"] == 1
    runs = jax.tree.map(lambda x: np.stack([x, x, x]), variables(1.5, -1, 5, 8))
    many = batch_norm_shifts(variables(1, 0, 2, 4), runs)
    assert many["bn"]["mean"].shape == (3, 2) and rms_shifts(many)["bn"]["mean"].tolist() == [3, 3, 3]
    bad = batch_norm_shifts(variables(1, 0, 2, 4), variables(1, 0, 2, -1))
    assert np.isnan(bad["bn"]["log_variance"]).all()


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


def test_tables_have_one_value_in_a_row():
    before = {"conv": {"kernel": normal(2, 3)}}
    after = {"conv": {"kernel": normal(2, 2, 3)}}
    by_level = changes(before, after)
    table = change_frame(by_level)
    assert list(table.columns) == ["run", "level", "name", "measure", "value", "index"]
    row = table.query("run == 1 and level == 'filter' and measure == 'rms' and index == 2")
    assert row["value"].item() == by_level["filter"]["conv/kernel"]["rms"][1, 2]
    layers = change_frame({"layer": by_level["layer"]})
    assert len(layers) == 2 * 6 and list(layers.columns) == ["run", "level", "name", "measure", "value"]
    one = change_frame(changes(before, before))
    assert set(one["run"]) == {0} and change_frame({}).empty
    matrix = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]])
    assert pair_frame({"conv": {"distance": matrix}})["value"].tolist() == [1, 2, 3] and pair_frame({}).empty


def make_trees(kind):
    """Returns a function from a key to the parameters of a dense network, its layers, and the axis of filters."""
    if kind == "dict":
        return lambda key: {"a": {"w": jax.random.normal(key, (3, 4))}}, {"a"}, -1
    if kind == "flax":
        linen = pytest.importorskip("flax.linen")
        model = linen.Dense(4)
        return lambda key: model.init(key, jnp.zeros((1, 3))), {"params"}, -1
    if kind == "haiku":
        haiku = pytest.importorskip("haiku")
        model = haiku.transform(lambda x: haiku.nets.MLP([4, 2])(x))
        return lambda key: model.init(key, jnp.zeros((1, 3))), {"mlp/~/linear_0", "mlp/~/linear_1"}, -1
    equinox = pytest.importorskip("equinox")
    return lambda key: equinox.nn.MLP(3, 2, 4, 1, key=key), {"layers/0", "layers/1"}, 0


@pytest.mark.parametrize("kind", ["dict", "flax", "haiku", "equinox"])
def test_trees_of_other_libraries(kind):
    make, layers, filter_axis = make_trees(kind)
    before, after = make(jax.random.key(0)), make(jax.random.key(1))
    by_level = changes(before, after, filter_axis=filter_axis)
    assert set(by_level["layer"]) == layers
    first, last = float_leaves(before), float_leaves(after)
    for name, change in by_level["leaf"].items():
        np.testing.assert_allclose(change["l2"], np.linalg.norm(first[name] - last[name]), rtol=1e-5)
    assert all(len(change["l2"]) in (2, 4) for change in by_level["filter"].values())


def test_layers_of_names_with_dots():
    assert layer_of("layer1.0.conv1.weight") == "layer1.0.conv1"
    assert layer_of("stage.1/kernel") == "stage.1" and layer_of("w") == "w"


def test_signs_of_small_and_large_values():
    values = np.float32([1e-35, -1e-35, 1e35, 0, 1e-35, np.nan])
    flipped = np.float32([-1e-35, 1e35, -1e35, -1, 1e35, -1])
    assert changes({"w": values}, {"w": flipped})["leaf"]["w"]["sign_flips"] == 0.5


def test_half_precision_is_summed_in_float32():
    before = {"w": jnp.zeros((300, 300), jnp.bfloat16)}
    after = {"w": jnp.ones((300, 300), jnp.bfloat16)}
    assert changes(before, after)["leaf"]["w"]["l2"] == 300
