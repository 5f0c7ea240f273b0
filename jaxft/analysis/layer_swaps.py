"""Importance of layers: the accuracy after a layer has its initial value again, and the criticality of layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core.paths import flatten, float_leaves, layer_of
from jaxft.core.text import some_of

GRID = tuple(i / 10 for i in range(11))
SIGMAS = tuple(2.0**-i for i in range(11))


class Criticality(NamedTuple):
    """The criticality of a layer, with the position and noise at which it is reached.

    Attributes:
      value: min alpha^2 ||w_T - w_0||^2 / sigma^2; inf if the loss is above the bound everywhere on the grid.
      alpha: the position between the initial value (0) and the final value (1); nan if `value` is inf.
      sigma: the standard deviation of the noise; nan if `value` is inf.
    """

    value: float
    alpha: float
    sigma: float


def layers_of(variables: Any) -> dict[str, tuple[str, ...]]:
    """Returns {layer: names of its leaves} of a tree, where a layer is all leaves of one parent."""
    layers: dict[str, list[str]] = {}
    for name in float_leaves(variables):
        layers.setdefault(layer_of(name), []).append(name)
    return {layer: tuple(names) for layer, names in layers.items()}


def blocks_of(variables: Any, blocks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns {block: names of its leaves}, for blocks such as 'stage1/block2', in all collections of the variables.

    Args:
      variables: a tree, such as {'params': ..., 'batch_stats': ...}.
      blocks: the names of the blocks.

    Raises:
      ValueError: a block has no leaves.
    """
    names = list(float_leaves(variables))
    members = {block: tuple(name for name in names if f"/{block}/" in f"/{name}/") for block in blocks}
    if empty := [block for block, leaves in members.items() if not leaves]:
        raise ValueError(f"the variables have no leaves in {some_of(empty)}.")
    return members


def swap_layers(
    evaluate: Callable[[Any], Any],
    variables: Any,
    replacement: Any,
    layers: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Returns {layer: evaluate(variables with the layer from `replacement`)}.

    With the pretrained weights as `replacement`, this rewinds each layer; with random weights, it reinitializes each
    layer. The other layers keep their trained values.

    Args:
      evaluate: returns the accuracy, or any other value, of variables.
      variables: the trained variables, a tree of arrays.
      replacement: the same tree, with pretrained or random values.
      layers: names of leaves by layer, as from `layers_of` (if None) or `blocks_of`.

    Raises:
      ValueError: the trees do not have the same leaves and shapes, or a leaf does not exist.

    Reference: Zhang, Bengio & Singer 2019, "Are all layers created equal?", section 3.
    """
    layers = _checked(variables, replacement, layers)
    start = flatten(replacement)
    return {
        layer: evaluate(_replaced(variables, {name: start[name] for name in names})) for layer, names in layers.items()
    }


def criticality(
    loss: Callable[[Any], Any],
    variables: Any,
    initial: Any,
    bound: float,
    key: jax.Array,
    layers: Mapping[str, Sequence[str]] | None = None,
    alphas: Sequence[float] = GRID,
    sigmas: Sequence[float] = SIGMAS,
    num_draws: int = 3,
) -> dict[str, Criticality]:
    """Returns {layer: Criticality}; the criticality of the network is the sum over its layers.

    The criticality of layer i is the minimum over 0 <= alpha, sigma <= 1 of

        alpha^2 ||w_T - w_0||_F^2 / sigma^2,  subject to  E[L((1 - alpha) w_0 + alpha w_T + u)] <= bound,

    where w_0 and w_T are the initial and final weights of the layer, the entries of u are normal with standard
    deviation sigma, and the other layers have their final weights.

    Args:
      loss: returns the training loss or error L of variables as a scalar.
      variables: the trained variables, a tree of arrays.
      initial: the same tree, with initial values.
      bound: the largest accepted loss, epsilon in the paper.
      key: a key of JAX for the noise.
      layers: names of leaves by layer, as from `layers_of` (if None) or `blocks_of`.
      alphas: the grid of positions, between 0 and 1.
      sigmas: the grid of standard deviations, above 0 and at most 1.
      num_draws: the number of draws of u for the expectation.

    Raises:
      ValueError: the trees or a leaf differ, or a grid is empty or outside of its range.

    Reference: Chatterji, Neyshabur & Sedghi 2020, "The intriguing role of module criticality in the generalization of
    deep networks", definition 3.1. The paper minimizes over all alpha and sigma; here, over a grid, with the mean of
    `num_draws` losses, which use the same draws at all positions. Noise is added to every leaf of the layer; give only
    kernels in `layers` to leave out biases and batch norms.
    """
    layers = _checked(variables, initial, layers)
    if not len(alphas) or not len(sigmas) or min(alphas) < 0 or max(alphas) > 1 or min(sigmas) <= 0 or max(sigmas) > 1:
        raise ValueError("`alphas` must be between 0 and 1, and `sigmas` above 0 and at most 1; neither can be empty.")
    if num_draws < 1:
        raise ValueError(f"`num_draws` is {num_draws}; it must be at least 1.")
    start, end = flatten(initial), flatten(variables)
    by_layer = {}
    for i, (layer, names) in enumerate(layers.items()):
        noise = [_noise(jax.random.fold_in(jax.random.fold_in(key, i), n), end, names) for n in range(num_draws)]
        squared = sum(
            float(np.square(np.asarray(end[name], np.float64) - np.asarray(start[name], np.float64)).sum())
            for name in names
        )

        def expected_loss(
            alpha: float,
            sigma: float,
            names: Sequence[str] = names,
            noise: Sequence[Mapping[str, jax.Array]] = noise,
        ) -> float:
            middle = {name: (1 - alpha) * start[name] + alpha * end[name] for name in names}
            moved = ({name: middle[name] + sigma * draw[name] for name in names} for draw in noise)
            return float(np.mean([float(loss(_replaced(variables, leaves))) for leaves in moved]))

        by_layer[layer] = _least(expected_loss, squared, bound, alphas, sigmas)
    return by_layer


def _least(
    expected_loss: Callable[[float, float], float],
    squared: float,
    bound: float,
    alphas: Sequence[float],
    sigmas: Sequence[float],
) -> Criticality:
    """Returns the criticality; candidates are tried from the smallest value, so that few losses are computed."""
    candidates = sorted((alpha**2 * squared / sigma**2, alpha, sigma) for alpha in alphas for sigma in sigmas)
    for value, alpha, sigma in candidates:
        if expected_loss(alpha, sigma) <= bound:
            return Criticality(value, alpha, sigma)
    return Criticality(float("inf"), float("nan"), float("nan"))


def _noise(key: jax.Array, leaves: Mapping[str, Any], names: Sequence[str]) -> dict[str, jax.Array]:
    keys = jax.random.split(key, len(names))
    return {
        name: jax.random.normal(k, np.shape(leaves[name]), jnp.asarray(leaves[name]).dtype)
        for name, k in zip(names, keys)
    }


def _replaced(variables: Any, leaves: Mapping[str, Any]) -> Any:
    """Returns the tree with other values for some leaves, given by name."""
    values = [leaves.get(name, value) for name, value in flatten(variables).items()]
    return jax.tree.unflatten(jax.tree.structure(variables), values)


def _checked(
    variables: Any, replacement: Any, layers: Mapping[str, Sequence[str]] | None
) -> Mapping[str, Sequence[str]]:
    """Returns the layers, and checks that both trees have the leaves of these layers with equal shapes."""
    layers = layers_of(variables) if layers is None else layers
    end, start = flatten(variables), flatten(replacement)
    names = [name for leaves in layers.values() for name in leaves]
    if missing := [name for name in names if name not in end or name not in start]:
        raise ValueError(f"not both trees have the leaves {some_of(missing)}.")
    if differing := [name for name in names if np.shape(end[name]) != np.shape(start[name])]:
        raise ValueError(f"the two trees have different shapes in {some_of(differing)}.")
    return layers
