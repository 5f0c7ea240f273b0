"""Checks that trees of parameters have the same leaves and shapes, and whether they have an axis of runs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core.paths import float_leaves
from jaxft.core.text import some_of


def aligned(
    before: Any, after: Any, own_starts: bool = False
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], bool]:
    """Returns the floating-point leaves of both trees, and whether `after` has an axis of runs.

    The leaves of `after` are [R, ...], with R = 1 if it has no axis of runs. The leaves of `before` have this axis only
    with `own_starts`.

    Args:
      before: a tree of arrays.
      after: the same tree for one run, or with a leading axis of R runs on every leaf.
      own_starts: whether both trees have the axis of runs.

    Raises:
      ValueError: the trees do not have the same leaves, or the shapes of a leaf do not match.
    """
    w0, w = float_leaves(before), float_leaves(after)
    has_runs = has_axis_of_runs(w0, w, own_starts)
    w0, w = ({name: jnp.asarray(leaf) for name, leaf in tree.items()} for tree in (w0, w))
    return w0, w if has_runs else {name: leaf[None] for name, leaf in w.items()}, has_runs


def has_axis_of_runs(before: Mapping[str, Any], after: Mapping[str, Any], own_starts: bool) -> bool:
    """Returns whether leaves `after` have an axis of runs: the first has one more axis than `before`, or `own_starts`.

    Raises:
      ValueError: the trees do not have the same leaves, or the shapes of a leaf do not match.
    """
    if before.keys() != after.keys():
        raise ValueError(f"only one of the two trees has {some_of(sorted(before.keys() ^ after.keys()))}.")
    has_runs = own_starts or any(np.ndim(after[name]) > np.ndim(before[name]) for name in list(after)[:1])
    first_axis = int(has_runs and not own_starts)
    for name, leaf in after.items():
        if np.ndim(leaf) < int(has_runs) or np.shape(leaf)[first_axis:] != np.shape(before[name]):
            others = "" if own_starts else ", or a leading axis of runs in every leaf"
            raise ValueError(
                f"leaf {name!r} has shape {list(np.shape(before[name]))} in `before` and {list(np.shape(leaf))} in "
                f"`after`; `after` must have the same shape{others}."
            )
    if has_runs:
        check_num_runs(after)
    return has_runs


def check_num_runs(leaves: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if a leaf [R, ...] has another number R of runs than the first leaf."""
    shapes = {name: np.shape(leaf) for name, leaf in leaves.items()}
    for name, shape in shapes.items():
        first, first_shape = next(iter(shapes.items()))
        if shape[:1] != first_shape[:1]:
            raise ValueError(
                f"leaf {name!r} has shape {list(shape)}, and {first!r} has {list(first_shape)}; their first axes, the "
                "runs, must be equal."
            )
