"""Files of timm's networks: loaded by their names, computed as timm does, and written back bit for bit."""

import importlib.util
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.models import create_model
from jaxft.weights import find_model, load, read_network, save_weights

SIZE_PX = 64


@pytest.fixture(scope="module")
def make_timm(real_data):
    """Returns a function from timm's name to a module with drawn weights, by the reference script."""
    script = real_data.parent / "tools" / "torch_reference.py"
    for needed in ("torch", "timm"):
        if not importlib.util.find_spec(needed):
            pytest.skip(f"needs {needed}")
    if not script.is_file():
        pytest.skip(f"needs {script}")
    sys.path.insert(0, str(script.parent))
    try:
        import torch_reference
    finally:
        sys.path.remove(str(script.parent))

    def make(name):
        module = torch_reference.build(f"timm:{name}").eval()
        torch_reference.fill(module)
        return module

    return make


@pytest.mark.parametrize(
    ("name", "ours", "naming"),
    [
        ("resnet18", "resnet18", "torchvision"),  # whose names are timm's
        pytest.param("resnet50", "resnet50", "torchvision", marks=pytest.mark.slow),
        ("tf_efficientnet_lite0", "efficientnet_lite0", "timm"),
        ("efficientnet_lite0", "efficientnet_lite0_timm", "timm"),
    ],
)
def test_timms_networks_load_and_compute_alike(name, ours, naming, make_timm, tmp_path):
    """Logits of two images are equal to 1e-4 of the largest, and the export with the same naming is bit-equal."""
    import torch

    module = make_timm(name)
    tensors = {key: np.ascontiguousarray(value.numpy()) for key, value in module.state_dict().items()}
    save_file(tensors, tmp_path / "timm.safetensors")
    model, variables, manifest = read_network(tmp_path / "timm.safetensors", ours)
    assert (manifest.naming, manifest.layout, manifest.assumed, model.num_classes) == (naming, "torch", True, 1000)
    images = np.random.default_rng(3).normal(size=(2, SIZE_PX, SIZE_PX, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = np.asarray(jax.jit(model.apply)(variables, images))
    assert np.abs(logits - theirs).max() / np.abs(theirs).max() < 1e-4

    save_weights(tmp_path / "copy.safetensors", model, variables, manifest)
    again = load_file(tmp_path / "copy.safetensors")
    assert again.keys() == tensors.keys()
    for key, value in tensors.items():
        assert again[key].dtype == value.dtype and again[key].tobytes() == value.tobytes(), key


def test_the_two_lite0_of_timm_are_told_apart_by_name_alone(make_timm, tmp_path):
    tensors = {key: value.numpy() for key, value in make_timm("efficientnet_lite0").state_dict().items()}
    path = tmp_path / "efficientnet_lite0.safetensors"
    save_file(tensors, path)
    with pytest.raises(jaxft.UserError, match="calls its tensors as timm does"):
        find_model(path)
    _, manifest = load(path, create_model("efficientnet_lite0_timm", 1000))
    assert manifest.preprocessing.mean == (0.485, 0.456, 0.406)
