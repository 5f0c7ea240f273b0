"""Weight files from timm: loaded, compared with timm, and saved with identical bits."""

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
    """Returns a function from a timm name to a module with random weights from the reference script."""
    script = real_data.parent / "tools" / "torch_reference.py"
    for package in ("torch", "timm"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"needs {package}")
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model_name", "naming"),
    [
        ("resnet18", "resnet18", "torchvision"),  # timm has the same names
        pytest.param("resnet50", "resnet50", "torchvision", marks=pytest.mark.slow),
        ("tf_efficientnet_lite0", "efficientnet_lite0", "timm"),
        ("efficientnet_lite0", "efficientnet_lite0_timm", "timm"),
    ],
)
def test_networks_from_timm_load_and_give_the_same_logits(name, model_name, naming, make_timm, tmp_path):
    """Logits of two images agree to 1e-4 of the largest, and the export with the same naming is bit-identical."""
    import torch

    module = make_timm(name)
    tensors = {key: np.ascontiguousarray(value.numpy()) for key, value in module.state_dict().items()}
    save_file(tensors, tmp_path / "timm.safetensors")
    model, variables, manifest = read_network(tmp_path / "timm.safetensors", model_name)
    assert (manifest.naming, manifest.layout, manifest.assumed, model.num_classes) == (naming, "torch", True, 1000)
    images = np.random.default_rng(3).normal(size=(2, SIZE_PX, SIZE_PX, 3)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = np.asarray(jax.jit(model.apply)(variables, images))
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-4

    save_weights(tmp_path / "copy.safetensors", model, variables, manifest)
    again = load_file(tmp_path / "copy.safetensors")
    assert again.keys() == tensors.keys()
    for key, value in tensors.items():
        assert again[key].dtype == value.dtype and again[key].tobytes() == value.tobytes(), key


def test_an_ambiguous_lite0_file_of_timm_needs_the_name_of_the_network(make_timm, tmp_path):
    tensors = {key: value.numpy() for key, value in make_timm("efficientnet_lite0").state_dict().items()}
    path = tmp_path / "efficientnet_lite0.safetensors"
    save_file(tensors, path)
    with pytest.raises(jaxft.UserError, match="its tensors have the names of timm"):
        find_model(path)
    _, manifest = load(path, create_model("efficientnet_lite0_timm", 1000))
    assert manifest.preprocessing.mean == (0.485, 0.456, 0.406)
