"""Pairs of runs, streamed runs, barriers, layer swaps, permutations and curvature."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxft.analysis.barriers import between, loss_barrier, loss_plane, pair_barriers
from jaxft.analysis.curvature import hessian_trace, hessian_vector_product, top_eigenvalues
from jaxft.analysis.layer_swaps import blocks_of, criticality, swap_layers
from jaxft.analysis.pairs import pairs, streamed_pairs
from jaxft.analysis.parameters import changes
from jaxft.analysis.permutation_groups import permutation_groups
from jaxft.analysis.permutations import group_sizes, permute, weight_matching
from jaxft.analysis.sources import load_source, shard_runs, streamed_changes
from jaxft.core.errors import UserError
from jaxft.models import create_model

RNG = np.random.default_rng(1)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


# --- pairs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.setattr("jaxft.analysis.pairs.CHUNK", 5)
    start = {"a": {"kernel": normal(3, 4), "bias": normal(4)}, "b": {"kernel": normal(4, 2)}}
    after = jax.tree.map(lambda w: w[None] + 0.01 * normal(5, *w.shape), start)
    other = jax.tree.map(lambda w: normal(*w.shape), start)
    jax.clear_caches()
    yield start, after, other
    jax.clear_caches()


def one_run(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def flat(tree, names):
    leaves = [tree[a][b].reshape(*tree[a][b].shape[: tree[a][b].ndim - n], -1) for a, b, n in names]
    return np.concatenate(leaves, -1).astype(np.float64)


def check_pairs(found, start, after, other):
    layers = {"a": [("a", "kernel", 2), ("a", "bias", 1)], "b": [("b", "kernel", 2)]}
    layers["total"] = layers["a"] + layers["b"]
    assert list(found) == ["a", "b", "total"]
    for layer, names in layers.items():
        w0, w, w1 = (flat(tree, names) for tree in (start, after, other))
        d, norms = w - w0, np.linalg.norm
        expected = {
            "distance": norms(w[:, None] - w[None], axis=-1),
            "cosine": w @ w.T / np.outer(norms(w, axis=1), norms(w, axis=1)),
            "change_cosine": d @ d.T / np.outer(norms(d, axis=1), norms(d, axis=1)),
            "distance to pretrained": norms(d, axis=1),
            "distance to random": norms(w - w1, axis=1),
        }
        assert found[layer].keys() == expected.keys()
        for measure, value in expected.items():
            np.testing.assert_allclose(found[layer][measure], value, rtol=2e-5, atol=1e-6, err_msg=measure)
        assert (np.diag(found[layer]["distance"]) == 0).all()


def test_pairs_against_numpy(runs):
    start, after, other = runs
    check_pairs(pairs(after, {"pretrained": start, "random": other}), start, after, other)


@pytest.mark.parametrize("num_blocks", [1, 2, 6])
def test_streamed_pairs_are_those_in_memory(runs, tmp_path, num_blocks):
    start, after, other = runs
    sources = []
    for i in range(5):
        one = one_run(after, i)
        leaves = {f"{a}/{b}": np.asarray(x) for a, layer in one.items() for b, x in layer.items()}
        save_file(leaves, tmp_path / f"{i}.safetensors")
        sources.append((lambda one=one: one) if i % 2 else tmp_path / f"{i}.safetensors")
    max_bytes = {1: 10**6, 2: 9 * 96, 6: 3 * 96}[num_blocks]
    check_pairs(streamed_pairs(sources, {"pretrained": start, "random": other}, max_bytes), start, after, other)


def test_pairs_of_degenerate_runs(runs):
    start, after, _ = runs
    with_nan = jax.tree.map(np.copy, after)
    with_nan["b"]["kernel"][1] = np.nan
    with_nan["a"] = jax.tree.map(lambda w0: np.repeat(w0[None], 5, 0), start["a"])
    found = pairs(with_nan, {"pretrained": start})
    assert np.isnan(found["b"]["distance"][1]).all() and np.isfinite(found["b"]["distance"][2:, 2:]).all()
    assert (found["a"]["distance"] == 0).all() and np.isnan(found["a"]["change_cosine"]).all()
    np.testing.assert_allclose(found["a"]["cosine"], 1, rtol=1e-6)
    alone = pairs(jax.tree.map(lambda x: x[:1], after), {"pretrained": start})
    assert alone["b"]["distance"].tolist() == [[0]]


def test_pairs_without_runs_or_references(runs):
    start, after, other = runs
    with pytest.raises(ValueError, match="`references` is empty"):
        pairs(after, {})
    with pytest.raises(ValueError, match="no leading axis of runs"):
        pairs(start, {"pretrained": start})
    with pytest.raises(ValueError, match="only one of the two trees has"):
        pairs(after, {"pretrained": start, "random": {"a": other["a"]}})
    with pytest.raises(ValueError, match="no runs"):
        streamed_pairs([], {"pretrained": start})
    with pytest.raises(ValueError, match="but three runs take"):
        streamed_pairs([start], {"pretrained": start}, max_bytes=10)


def test_streamed_changes_are_those_in_memory(runs):
    start, after, _ = runs
    streamed = streamed_changes(start, (lambda i=i: one_run(after, i) for i in range(5)))
    expected = changes(start, after)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), streamed, expected)
    with pytest.raises(ValueError, match="no runs"):
        streamed_changes(start, [])
    with pytest.raises(ValueError, match="only one of the two trees has"):
        streamed_changes(start, [{"a": start["a"]}])


def test_a_source_that_is_no_safetensors_file(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"no")
    for name in ("weights.bin", "missing"):
        with pytest.raises(UserError, match="cannot be read as a safetensors file"):
            load_source(tmp_path / name)


@pytest.mark.slow
def test_runs_on_eight_devices():
    code = """
import jax, numpy as np
from jaxft.analysis.pairs import pairs
from jaxft.analysis.parameters import changes
from jaxft.analysis.sources import shard_runs
from jaxft.analysis.spectra import spectra
rng = np.random.default_rng(0)
start = {"a": {"kernel": rng.normal(size=(300, 120)).astype(np.float32)}}
after = jax.tree.map(lambda w: w[None] + rng.normal(size=(16, *w.shape)).astype(np.float32), start)
sharded = shard_runs(after)
assert len(sharded["a"]["kernel"].devices()) == 8
for function in (changes, lambda b, a: pairs(a, {"start": b}), lambda b, a: spectra(b, a, 3)):
    one, many = function(start, after), function(start, sharded)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-3), one, many)
assert len(changes(start, sharded)["leaf"]["a/kernel"]["l2"].devices()) == 8
assert len(shard_runs(after, jax.devices()[:6])["a"]["kernel"].devices()) == 4
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_runs_that_cannot_be_distributed():
    for tree in ({}, {"w": np.float32(1)}, {"a": normal(2, 3), "b": normal(3, 3)}):
        with pytest.raises(ValueError, match="the same leading axis of runs"):
            shard_runs(tree)


# --- barriers and planes ----------------------------------------------------------------------------------------


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


# --- layers -----------------------------------------------------------------------------------------------------


def test_swapped_layers_by_hand():
    trained = {"params": {"a": {"w": np.float32([1, 2])}, "b": {"w": np.float32([10])}}, "step": 3}
    start = {"params": {"a": {"w": np.float32([0, 0])}, "b": {"w": np.float32([5])}}, "step": 0}

    def total(variables):
        return float(sum(leaf.sum() for leaf in jax.tree.leaves(variables["params"])))

    assert swap_layers(total, trained, start) == {"params/a": 10, "params/b": 8}
    assert swap_layers(total, trained, trained) == {"params/a": 13, "params/b": 13}
    assert swap_layers(total, trained, start, blocks_of(trained, ["a"])) == {"a": 10}
    with pytest.raises(ValueError, match="no leaves in c"):
        blocks_of(trained, ["c"])
    with pytest.raises(ValueError, match="different shapes in params/a/w"):
        swap_layers(total, trained, {"params": {"a": {"w": np.zeros(3)}, "b": {"w": np.zeros(1)}}})
    with pytest.raises(ValueError, match="not both trees have the leaves params/b/w"):
        swap_layers(total, trained, {"params": {"a": {"w": np.zeros(2)}}})


def test_criticality_by_hand():
    # The loss does not depend on `free`: alpha 0 is allowed. It is 1 - alpha in `used`, without noise in it.
    trained = {"free": {"w": np.float32([4])}, "used": {"w": np.float32([3, 4])}}
    start = jax.tree.map(np.zeros_like, trained)

    def loss(variables):  # a mean of noise of sigma 0.001 moves it by less than 0.01
        return 1 - variables["used"]["w"].sum() / 7

    found = criticality(loss, trained, start, 0.45, jax.random.key(0), alphas=(0, 0.4, 0.6, 1), sigmas=(1e-3,))
    assert found["free"].value == 16 * 1 / 1e-6 or found["free"].alpha == 0
    assert found["used"].alpha == 0.6 and found["used"].value == pytest.approx(0.36 * 25 / 1e-6)
    never = criticality(loss, trained, start, -5, jax.random.key(0))
    assert never["used"].value == np.inf and np.isnan(never["used"].alpha)
    for wrong in ({"alphas": ()}, {"sigmas": (0,)}, {"sigmas": (2,)}):
        with pytest.raises(ValueError, match="`sigmas` above 0"):
            criticality(loss, trained, start, 0, jax.random.key(0), **wrong)
    with pytest.raises(ValueError, match="`num_draws` is 0"):
        criticality(loss, trained, start, 0, jax.random.key(0), num_draws=0)


# --- permutations -----------------------------------------------------------------------------------------------


def random_permutations(sizes):
    return {group: RNG.permutation(size) for group, size in sizes.items()}


def inverse_of(permutations):
    return {group: np.argsort(permutation) for group, permutation in permutations.items()}


DENSE = {
    "hidden1": [("a/kernel", 1), ("a/bias", 0), ("b/kernel", 0)],
    "hidden2": [("b/kernel", 1), ("b/bias", 0), ("c/kernel", 0)],
}


def dense(x, tree):
    for layer in "abc":
        x = jnp.tanh(x @ tree[layer]["kernel"] + tree[layer]["bias"][None])
    return x


def test_a_known_permutation_is_found():
    widths = (5, 7, 6, 3)
    tree = {layer: {"kernel": normal(n, m), "bias": normal(m)} for layer, n, m in zip("abc", widths[:-1], widths[1:])}
    known = random_permutations({"hidden1": 7, "hidden2": 6})
    moved = permute(tree, DENSE, known)
    x = normal(4, 5)
    np.testing.assert_allclose(dense(x, tree), dense(x, moved), rtol=1e-5, atol=1e-6)
    found = weight_matching(tree, moved, DENSE)
    expected = inverse_of(known)
    assert {group: p.tolist() for group, p in found.items()} == {g: p.tolist() for g, p in expected.items()}
    jax.tree.map(np.testing.assert_array_equal, permute(moved, DENSE, found), tree)
    same = weight_matching(tree, tree, DENSE)
    assert all(p.tolist() == sorted(p) for p in same.values())


def test_groups_of_a_dense_network_are_those_by_hand():
    tree = {layer: {"kernel": normal(3, 3), "bias": normal(3)} for layer in "abc"}
    groups = permutation_groups(lambda tree, x: dense(x, tree), tree, normal(2, 3))
    expected = {"a": DENSE["hidden1"], "b": DENSE["hidden2"]}
    assert {group: sorted(axes) for group, axes in groups.items()} == {g: sorted(a) for g, a in expected.items()}


@pytest.mark.parametrize(
    ("name", "size_px", "num_groups"),
    [
        ("toy", 8, 2),  # the inner channels of two blocks; channels of shortcuts are padded
        ("toy_lite", 32, 6),  # stem, stage 1, stage 2, the expansions of two blocks, top
        ("wrn10_1", 16, 6),  # three stages, and the inner channels of three blocks
        pytest.param("resnet18", 32, 12, marks=pytest.mark.slow),
    ],
)
def test_a_known_permutation_of_a_network_is_found(name, size_px, num_groups):
    model = create_model(name, 3)
    x = normal(2, size_px, size_px, 3)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    variables = jax.tree.map(lambda leaf: np.abs(normal(*leaf.shape)) + 0.5, shapes)
    variables["params"] = jax.tree.map(lambda leaf: normal(*leaf.shape) / 4, shapes["params"])
    groups = permutation_groups(model.apply, shapes, x)
    assert len(groups) == num_groups
    known = random_permutations(group_sizes(variables, groups))
    moved = permute(variables, groups, known)
    found = weight_matching(variables, moved, groups)
    assert {group: p.tolist() for group, p in found.items()} == {g: p.tolist() for g, p in inverse_of(known).items()}
    apply = jax.jit(model.apply)
    expected, outputs = apply(variables, x), apply(moved, x)
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_specification_that_does_not_fit():
    tree = {"a": {"kernel": normal(2, 3)}, "b": {"kernel": normal(4, 2)}}
    for specification, message in (
        ({"g": [("a/kernel", 2)]}, "names axis 2 of 'a/kernel'"),
        ({"g": [("c", 0)]}, "names axis 0 of 'c'"),
        ({"g": [("a/kernel", 1), ("b/kernel", 0)]}, "axes of size 3 and, in 'b/kernel', of size 4"),
        ({"g": [("a/kernel", 1)], "h": [("a/kernel", 1)]}, "is in two groups"),
    ):
        with pytest.raises(ValueError, match=message):
            permute(tree, specification, {})
    group = {"g": [("a/kernel", 1)]}
    with pytest.raises(ValueError, match="does not contain each of 0 to 2 once"):
        permute(tree, group, {"g": np.array([0, 0, 1])})
    with pytest.raises(ValueError, match="different sizes"):
        weight_matching(tree, {"a": {"kernel": normal(2, 4)}}, group)
    with pytest.raises(ValueError, match="not finite"):
        weight_matching(tree, {"a": {"kernel": tree["a"]["kernel"] * np.nan}}, group)


# --- curvature --------------------------------------------------------------------------------------------------


def quadratic(size):
    matrix = RNG.normal(size=(size, size))
    matrix = ((matrix + matrix.T) / 2).astype(np.float32)

    def loss(params):
        x = jnp.concatenate([params["a"].ravel(), params["b"]])
        return x @ matrix @ x / 2

    return matrix, loss, {"a": jnp.asarray(normal(2, 3)), "b": jnp.asarray(normal(size - 6))}


@pytest.mark.parametrize("size", [8, 60])
def test_eigenvalues_of_a_quadratic_are_those_of_its_matrix(size):
    matrix, loss, params = quadratic(size)
    vector = jax.tree.map(jnp.ones_like, params)
    product = hessian_vector_product(loss, params, vector)
    flat_product = np.concatenate([product["a"].ravel(), product["b"]])
    np.testing.assert_allclose(flat_product, matrix.sum(1), rtol=1e-4, atol=1e-4)
    found = top_eigenvalues(loss, params, 3, tolerance=1e-6)
    values, _ = np.linalg.eigh(matrix.astype(np.float64))
    np.testing.assert_allclose(found.values, values[::-1][:3], rtol=1e-4)
    top = np.concatenate([found.vectors[0]["a"].ravel(), found.vectors[0]["b"]])
    np.testing.assert_allclose(matrix @ top, found.values[0] * top, atol=1e-3)


def test_trace_of_a_quadratic():
    diagonal = np.arange(1, 11, dtype=np.float32)
    params = {"w": jnp.ones(10)}
    exact = hessian_trace(lambda p: (diagonal * p["w"] ** 2).sum() / 2, params, jax.random.key(0), 4)
    assert exact.value == pytest.approx(55) and exact.standard_error == pytest.approx(0, abs=1e-4)
    matrix, loss, params = quadratic(20)
    estimate = hessian_trace(loss, params, jax.random.key(0), 400)
    assert abs(estimate.value - np.trace(matrix)) < 4 * estimate.standard_error
    # The variance of v' H v is twice the sum of the squared entries outside of the diagonal.
    variance = 2 * ((matrix - np.diag(np.diag(matrix))) ** 2).sum()
    assert estimate.standard_error == pytest.approx(np.sqrt(variance / 400), rel=0.2)
    assert np.isnan(hessian_trace(loss, params, jax.random.key(0), 1).standard_error)


def test_curvature_without_a_value():
    _, loss, params = quadratic(8)
    with pytest.raises(ValueError, match="between 1 and the number of parameters, 8"):
        top_eigenvalues(loss, params, 9)
    with pytest.raises(ValueError, match="not finite"):
        top_eigenvalues(lambda p: jnp.log(p["b"] * 0).sum(), params, 1)
    with pytest.raises(ValueError, match="`num_draws` is 0"):
        hessian_trace(loss, params, jax.random.key(0), 0)
