"""Loading refuses invalid values; for analysis, they can be loaded."""

import numpy as np
import pytest
from helpers import draw_variables

import jaxft
from jaxft.core import paths
from jaxft.models import create_model
from jaxft.weights import convert_weights, damaged_values, load_weights, read_network, save_weights


def altered(leaf, index, value):
    """Returns the toy network and random variables, with one value of a leaf replaced."""
    model = create_model("toy", num_classes=3)
    flat = {name: np.array(values) for name, values in paths.flatten(draw_variables(model, 8)).items()}
    flat[leaf][index] = value
    return model, paths.unflatten(flat)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".msgpack"])
@pytest.mark.parametrize(
    ("leaf", "value", "damage"),
    [
        ("params/stage1/block1/conv1/kernel", np.nan, "NaN"),
        ("params/head/bias", -np.inf, "infinity"),
        ("batch_stats/stem/bn/mean", np.nan, "NaN"),
        ("batch_stats/stage2/block1/bn2/var", np.inf, "infinity"),
        ("batch_stats/stage2/block1/bn2/var", -1e-9, "a negative variance"),
        ("batch_stats/stem/bn/var", 0.0, "a variance of zero"),
    ],
)
def test_loading_refuses_invalid_values(leaf, value, damage, suffix, tmp_path):
    model, variables = altered(leaf, 1 if leaf.endswith(("bias", "mean", "var")) else (0, 0, 0, 0), value)
    path = tmp_path / f"toy.mine{suffix}"
    save_weights(path, model, variables)
    loaders = [lambda: load_weights(path, model), lambda: read_network(path, "toy")]
    loaders += [lambda: convert_weights(path, tmp_path / "other.pth", "toy")]
    loaders += [] if "head" in leaf else [lambda: load_weights(path, model, head="new")]
    for loader in loaders:
        with pytest.raises(jaxft.UserError, match=f"{damage} in {leaf}") as refusal:
            loader()
        assert path.name in str(refusal.value) and len(str(refusal.value)) < 300 + len(str(path))
    assert not (tmp_path / "other.pth").exists()
    unchecked = paths.flatten(load_weights(path, model, check_values=False))
    for name, values in paths.flatten(variables).items():
        np.testing.assert_array_equal(unchecked[name], values)


def test_a_channel_that_is_always_zero_may_have_a_variance_of_zero():
    """Its mean is close to zero, and other channels of the layer have nonzero means, as in EfficientNet-Lite0."""
    mean, var = np.array([0.3, 4e-6, -0.2], np.float32), np.array([1.0, 0.0, 2.0], np.float32)
    assert damaged_values({"batch_stats/bn/mean": mean, "batch_stats/bn/var": var}) == {}
    moved = {"batch_stats/bn/mean": mean + np.float32(0.01), "batch_stats/bn/var": var}
    untrained = {"batch_stats/bn/mean": 0 * mean, "batch_stats/bn/var": var}
    assert damaged_values(moved) == damaged_values(untrained) == {"batch_stats/bn/var": "a variance of zero"}
