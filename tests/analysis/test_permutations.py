"""Permutations of channels: known ones are recovered by weight matching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.analysis.permutation_groups import permutation_groups
from jaxft.analysis.permutations import group_sizes, permute, weight_matching
from jaxft.models import create_model

RNG = np.random.default_rng(1)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


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
        ("squeezenet1_1", 64, 9),  # stem and squeezes; concatenated channels keep their order
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
