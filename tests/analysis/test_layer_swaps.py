"""Layers with their initial values again, and the criticality of layers."""

import jax
import numpy as np
import pytest

from jaxft.analysis.layer_swaps import blocks_of, criticality, swap_layers

RNG = np.random.default_rng(1)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


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
