"""Loss barriers on the line between two networks, and losses in the plane through three networks."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core.paths import float_leaves

Evaluate = Callable[[Any], Any]  # returns the loss of `variables` as a scalar
Recalibrate = Callable[[Any], Any]  # returns `variables` with new batch-norm statistics
ALPHAS = tuple(i / 10 for i in range(11))


class Barrier(NamedTuple):
    """Losses on the line between two networks.

    Attributes:
      barrier: the largest difference between a loss on the line and the linear interpolation of the losses at its ends.
      alphas: [n], the positions on the line; 0 is the first network, 1 the second one.
      losses: [n], the losses at these positions.
    """

    barrier: float
    alphas: np.ndarray
    losses: np.ndarray


def between(first: Any, second: Any, alpha: float) -> Any:
    """Returns the tree (1 - alpha) first + alpha second. Leaves that are not floating-point arrays are from `first`.

    Args:
      first: a tree of arrays of any shape.
      second: the same tree.
      alpha: the position on the line.
    """
    return combined([first, second], [1 - alpha, alpha])


def combined(trees: Sequence[Any], weights: Sequence[float]) -> Any:
    """Returns the weighted sum of trees. Leaves that are not floating-point arrays are from the first tree.

    Args:
      trees: trees of arrays with the same leaves and shapes.
      weights: the weight of each tree. A tree with weight 0 is left out, so its values need not be finite.
    """
    used = [(tree, weight) for tree, weight in zip(trees, weights) if weight != 0]

    def of_leaf(first: Any, *leaves: Any) -> Any:
        if not float_leaves(first):
            return first
        return sum(jnp.asarray(leaf) * jnp.asarray(weight, leaf.dtype) for leaf, (_, weight) in zip(leaves, used))

    return jax.tree.map(of_leaf, trees[0], *(tree for tree, _ in used))


def loss_barrier(
    evaluate: Evaluate,
    first: Any,
    second: Any,
    alphas: Sequence[float] = ALPHAS,
    recalibrate: Recalibrate | None = None,
) -> Barrier:
    """Returns the barrier max over a of [L((1 - a) w0 + a w1) - (1 - a) L(w0) - a L(w1)].

    Args:
      evaluate: returns the loss L of variables as a scalar.
      first: the variables w0 of the first network: a tree of arrays.
      second: the variables w1 of the second network: the same tree.
      alphas: [n], the positions a, between 0 and 1.
      recalibrate: returns variables with batch-norm statistics for their parameters. It is applied at every position,
        including both ends. If None, the statistics are interpolated too.

    Raises:
      ValueError: `alphas` is empty or has values outside of 0 to 1, or the trees differ.

    Reference: Frankle et al. 2020, "Linear mode connectivity and the lottery ticket hypothesis", section 2 (with the
    mean of both losses instead of their interpolation); Neyshabur et al. 2020, "What is being transferred in transfer
    learning?", definition 3.1; Jordan et al. 2023, "REPAIR", for the recalibration.
    """
    ends = _loss(evaluate, first, recalibrate), _loss(evaluate, second, recalibrate)
    return _barrier(evaluate, first, second, alphas, recalibrate, ends)


def _barrier(
    evaluate: Evaluate,
    first: Any,
    second: Any,
    alphas: Sequence[float],
    recalibrate: Recalibrate | None,
    ends: tuple[float, float],
) -> Barrier:
    positions = np.asarray(alphas, np.float64)
    if not positions.size or positions.min() < 0 or positions.max() > 1:
        raise ValueError("`alphas` must have at least one value, all between 0 and 1.")
    at_ends = dict(zip((0.0, 1.0), ends))
    losses = np.array(
        [
            at_ends[a] if a in at_ends else _loss(evaluate, between(first, second, a), recalibrate)
            for a in positions.tolist()
        ]
    )
    heights = losses - (ends[0] + positions * (ends[1] - ends[0]))  # exactly 0 if all losses are equal
    return Barrier(float(heights.max()), positions, losses)


def pair_barriers(
    evaluate: Evaluate,
    networks: Sequence[Any],
    alphas: Sequence[float] = ALPHAS,
    recalibrate: Recalibrate | None = None,
) -> np.ndarray:
    """Returns [R, R], the loss barriers between all pairs of R networks; 0 on the diagonal.

    Args:
      evaluate: as in `loss_barrier`.
      networks: the variables of R networks: trees of arrays with the same leaves and shapes.
      alphas: as in `loss_barrier`.
      recalibrate: as in `loss_barrier`.

    Raises:
      ValueError: as in `loss_barrier`.
    """
    ends = [_loss(evaluate, variables, recalibrate) for variables in networks]
    barriers = np.zeros((len(networks), len(networks)))
    for i, j in itertools.combinations(range(len(networks)), 2):
        line = _barrier(evaluate, networks[i], networks[j], alphas, recalibrate, (ends[i], ends[j]))
        barriers[i, j] = barriers[j, i] = line.barrier
    return barriers


def _loss(evaluate: Evaluate, variables: Any, recalibrate: Recalibrate | None) -> float:
    return float(evaluate(variables if recalibrate is None else recalibrate(variables)))


class Plane(NamedTuple):
    """Losses in a plane of weights. Coordinates are distances from the first network.

    Attributes:
      x: [columns], along the line from the first to the second network.
      y: [rows], orthogonal to this line.
      losses: [rows, columns].
      points: [3, 2], the coordinates (x, y) of the three networks.
    """

    x: np.ndarray
    y: np.ndarray
    losses: np.ndarray
    points: np.ndarray


def loss_plane(
    evaluate: Evaluate,
    networks: Sequence[Any],
    size: tuple[int, int] = (21, 21),
    margin: float = 0.2,
    recalibrate: Recalibrate | None = None,
) -> Plane:
    """Returns the losses on a grid in the plane through three networks.

    The axes are u = (w1 - w0) / ||w1 - w0|| and, by Gram-Schmidt, the unit vector along the component of w2 - w0 that
    is orthogonal to u.

    Args:
      evaluate: returns the loss of variables as a scalar.
      networks: the variables of three networks: trees of arrays with the same leaves and shapes.
      size: (rows, columns) of the grid.
      margin: the margin around the three points, as a fraction of their range on each axis.
      recalibrate: as in `loss_barrier`. Networks with batch norm need it: outside of the triangle, combinations of
        variances can be negative.

    Raises:
      ValueError: there are not three networks, or they are on one line.

    Reference: Garipov et al. 2018, "Loss surfaces, mode connectivity, and fast ensembling of DNNs", appendix A.
    """
    if len(networks) != 3:
        raise ValueError(f"a plane needs three networks, but there are {len(networks)}.")
    first, *others = ({name: np.asarray(x, np.float64) for name, x in float_leaves(net).items()} for net in networks)
    u, v = ({name: other[name] - first[name] for name in first} for other in others)
    uu, uv, vv = (sum(float(np.vdot(a[name], b[name])) for name in first) for a, b in ((u, u), (u, v), (v, v)))
    height = vv - uv * uv / uu if uu else 0.0
    if height <= 1e-12 * vv or not uu:
        raise ValueError("the three networks are on one line, so they do not define a plane.")
    points = np.array([[0, 0], [uu**0.5, 0], [uv / uu**0.5, height**0.5]])
    low, high = points.min(0), points.max(0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    x, y = np.linspace(low[0], high[0], size[1]), np.linspace(low[1], high[1], size[0])
    losses = np.empty(size)
    for row, column in np.ndindex(*size):
        beta = y[row] / points[2, 1]
        alpha = (x[column] - beta * points[2, 0]) / points[1, 0]
        losses[row, column] = _loss(evaluate, combined(networks, (1 - alpha - beta, alpha, beta)), recalibrate)
    return Plane(x, y, losses, points)
