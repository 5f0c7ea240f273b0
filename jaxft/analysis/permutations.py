"""Permutations of hidden units: their application to weights, and weight matching of two networks.

A specification names the axes that must be permuted together: {group: [(leaf, axis), ...]}. For a network of two dense
layers, it is {"hidden": [("layer1/kernel", 1), ("layer1/bias", 0), ("layer2/kernel", 0)]}. In a residual network, all
outputs that are added to each other are in one group.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core.paths import flatten

Specification = Mapping[str, Sequence[tuple[str, int]]]
Permutations = dict[str, np.ndarray]  # {group: [size] indices}


def group_sizes(tree: Any, specification: Specification) -> dict[str, int]:
    """Returns {group: number of units} for a tree of arrays.

    Raises:
      ValueError: the tree has no such leaf or axis, the axes of a group have different sizes, or an axis is in two
        groups.
    """
    leaves = flatten(tree)
    sizes: dict[str, int] = {}
    used: set[tuple[str, int]] = set()
    for group, axes in specification.items():
        for name, axis in axes:
            if name not in leaves or not 0 <= axis < np.ndim(leaves[name]):
                raise ValueError(f"group {group!r} names axis {axis} of {name!r}, which the tree does not have.")
            size = np.shape(leaves[name])[axis]
            if sizes.setdefault(group, size) != size:
                raise ValueError(f"group {group!r} has axes of size {sizes[group]} and, in {name!r}, of size {size}.")
            if (name, axis) in used:
                raise ValueError(f"axis {axis} of {name!r} is in two groups, or twice in one.")
            used.add((name, axis))
    return sizes


def permute(tree: Any, specification: Specification, permutations: Mapping[str, np.ndarray]) -> Any:
    """Returns the tree with permuted units: unit i of a group is unit `permutations[group][i]` of the argument.

    Args:
      tree: a tree of arrays.
      specification: {group: [(leaf, axis), ...]}.
      permutations: {group: [size] indices}. Groups without a permutation are unchanged.

    Raises:
      ValueError: the tree does not fit the specification, or an array of indices is not a permutation.
    """
    for group, size in group_sizes(tree, specification).items():
        if group in permutations and not np.array_equal(np.sort(permutations[group]), np.arange(size)):
            raise ValueError(f"the permutation of group {group!r} does not contain each of 0 to {size - 1} once.")
    by_leaf = _by_leaf(specification)
    leaves = [_permuted(leaf, by_leaf.get(name, ()), permutations) for name, leaf in flatten(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def weight_matching(
    first: Any, second: Any, specification: Specification, seed: int = 0, max_rounds: int = 100
) -> Permutations:
    """Returns {group: [size] indices}, which align the units of `second` to `first`: `permute(second, ...)` is aligned.

    It maximizes the sum of inner products of the leaves of `first` and of the permuted `second`. For one group, with
    the others fixed, this is a linear assignment problem. The groups are solved in random order until a round changes
    no permutation, so the result is a local maximum.

    Args:
      first: a tree of arrays.
      second: the same tree.
      specification: {group: [(leaf, axis), ...]}; leaves that it does not name do not matter.
      seed: seed of the order of the groups.
      max_rounds: the largest number of rounds over all groups.

    Raises:
      ValueError: a tree does not fit the specification, the shapes differ, or a leaf is not finite.

    Reference: Ainsworth, Hayase & Srinivasa 2023, "Git re-basin: merging models modulo permutation symmetries",
    algorithm 1.
    """
    from scipy.optimize import linear_sum_assignment

    sizes = group_sizes(first, specification)
    if group_sizes(second, specification) != sizes:
        raise ValueError("the two networks have groups of different sizes.")
    by_leaf = _by_leaf(specification)
    target, moved = (
        {name: np.asarray(leaf, np.float64) for name, leaf in flatten(tree).items() if name in by_leaf}
        for tree in (first, second)
    )
    for name, leaf in target.items():
        if leaf.shape != moved[name].shape or not (np.isfinite(leaf).all() and np.isfinite(moved[name]).all()):
            raise ValueError(f"leaf {name!r} has different shapes in both networks, or values that are not finite.")
    permutations = {group: np.arange(size) for group, size in sizes.items()}
    order, rng = list(specification), np.random.default_rng(seed)
    for _ in range(max_rounds):
        improved = False
        for group in (order[i] for i in rng.permutation(len(order))):
            gains = np.zeros((sizes[group], sizes[group]))
            for name, axis in specification[group]:
                others = [(other, of_axis) for other, of_axis in by_leaf[name] if of_axis != axis]
                gains += _inner_products(target[name], _permuted(moved[name], others, permutations), axis)
            assigned = linear_sum_assignment(gains, maximize=True)[1]
            size = np.arange(sizes[group])
            gain = gains[size, assigned].sum() - gains[size, permutations[group]].sum()
            if gain > 1e-12 * np.abs(gains).max():
                permutations[group], improved = assigned, True
        if not improved:
            break
    return permutations


def _by_leaf(specification: Specification) -> dict[str, list[tuple[str, int]]]:
    """Returns {leaf: [(group, axis), ...]}."""
    by_leaf: dict[str, list[tuple[str, int]]] = {}
    for group, axes in specification.items():
        for name, axis in axes:
            by_leaf.setdefault(name, []).append((group, axis))
    return by_leaf


def _permuted(leaf: Any, axes: Sequence[tuple[str, int]], permutations: Mapping[str, np.ndarray]) -> Any:
    for group, axis in axes:
        if group in permutations:
            take = jnp.take if isinstance(leaf, jax.Array) else np.take
            leaf = take(leaf, permutations[group], axis)
    return leaf


def _inner_products(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    """Returns [size, size], the inner products of the slices of two arrays along an axis."""
    rows, columns = (np.moveaxis(leaf, axis, 0).reshape(leaf.shape[axis], -1) for leaf in (first, second))
    return rows @ columns.T
