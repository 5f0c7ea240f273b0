"""Parameter trees of other libraries, and names of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.analysis.parameters import changes, filter_changes
from jaxft.analysis.spectra import spectra
from jaxft.core.paths import float_leaves, layer_of

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


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


def test_filters_of_the_first_axis():
    before, after = {"weight": normal(4, 3, 2, 2)}, {"weight": normal(4, 3, 2, 2)}
    moved = [{"weight": np.moveaxis(tree["weight"], 0, -1)} for tree in (before, after)]
    first, last = filter_changes(before, after, filter_axis=0), filter_changes(*moved)
    np.testing.assert_allclose(first["weight"]["l2"], last["weight"]["l2"], rtol=1e-6)
    one, other = spectra(before, after, 3, filter_axis=0), spectra(*moved, 3)
    np.testing.assert_allclose(one["weight"].energy, other["weight"].energy, rtol=1e-6)


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
