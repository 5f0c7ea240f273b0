"""Parity with PyTorch, stage by stage: networks in torchvision's layout against torchvision's own.

The reference is a script that lies beside the real data (`../tools/torch_reference.py`, from their folder): it draws
every weight from its name, so that a tensor which is swapped, transposed or left out is seen, and writes activations,
gradients and running statistics.
"""

import functools
import hashlib
import importlib.util
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxft import paths
from jaxft.models import create_model
from jaxft.weights import load_weights, save_weights, to_foreign

pytestmark = pytest.mark.slow

# The reference's module whose output is that of each unit: a fire module, or the pool that our unit ends with.
SQUEEZENET_FEATURES = {"squeezenet1_0": (2, 3, 4, 6, 7, 8, 9, 11, 12), "squeezenet1_1": (2, 3, 5, 6, 8, 9, 10, 11, 12)}


def modules_of(model):
    """Returns the reference's name for the module whose output is that of each unit before pool and head."""
    units = model.units[:-1]
    if model.architecture in SQUEEZENET_FEATURES:
        return {unit: f"features.{i}" for unit, i in zip(units, SQUEEZENET_FEATURES[model.architecture])}
    stages = (re.fullmatch(r"stage(\d)/block(\d+)", unit) for unit in units[1:] if unit != "pool")
    return {"stem": "maxpool"} | {match[0]: f"layer{match[1]}.{int(match[2]) - 1}" for match in stages}


@pytest.fixture
def run_reference(real_data, tmp_path):
    """Returns a function that runs the reference, and returns the path of its weights and its results."""
    script = real_data.parent / "tools" / "torch_reference.py"
    for needed, there in [
        (script, script.is_file()),
        ("torch", importlib.util.find_spec("torch")),
        ("torchvision", importlib.util.find_spec("torchvision")),
    ]:
        if not there:
            pytest.skip(f"needs {needed}")

    def run(name, *options):
        command = [sys.executable, str(script), name, str(tmp_path), *options]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        with np.load(tmp_path / f"{name}.npz") as results:
            return tmp_path / f"{name}.safetensors", dict(results)

    return run


def difference(ours, theirs):
    """Returns the largest difference, as a share of the largest value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "squeezenet1_0", "squeezenet1_1"])
def test_every_stage_in_inference(name, run_reference, tmp_path):
    """224 px, float32: each unit's output from the images on, and the logits, to 1e-4; the export is bit-equal."""
    path, theirs = run_reference(name)
    model = create_model(name, num_classes=1000)
    variables = load_weights(path, model)
    modules, head = modules_of(model), model.units[-1]
    rest = model.units[len(modules)]  # the pool, or the head

    @jax.jit
    def look(x):
        outputs = {}
        for unit in modules:
            outputs[unit] = x = model.apply(variables, x, start=unit, stop=unit)
        return outputs, model.apply(variables, x, start=rest)

    outputs, logits = look(theirs["images"])
    far = {unit: difference(out, theirs[f"act/{modules[unit]}"]) for unit, out in outputs.items()}
    far[head] = difference(logits, theirs["logits"])
    assert max(far.values()) < 1e-4, far

    save_weights(tmp_path / "out.safetensors", model, variables)
    out, original = load_file(tmp_path / "out.safetensors"), load_file(path)
    assert out.keys() == original.keys()
    for tensor, values in original.items():
        assert out[tensor].dtype == values.dtype and out[tensor].tobytes() == values.tobytes(), tensor


def summary(name, gradient):
    """Returns what the reference keeps of a large gradient: norm, mean, and its product with a draw by its name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    probe = np.random.default_rng(seed).normal(size=gradient.shape)
    return np.array([np.sqrt((gradient**2).sum()), gradient.mean(), (gradient * probe).sum()])


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "squeezenet1_0"])
def test_one_training_step(name, run_reference):
    """Logits, every gradient and every running statistic of a step at 64 px, in float64 on both sides, to 1e-8.

    At 224 px, where it takes twice as long, the ResNets were run once: 3e-14 and 1e-12 at most.
    """
    path, theirs = run_reference(name, "--size", "64", "--dtype", "float64")
    model = create_model(name, num_classes=1000)
    with jax.enable_x64(True):
        wide = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, jnp.float64))
        variables = load_weights(path, model)
        params, rest = wide(variables["params"]), wide({"batch_stats": variables.get("batch_stats", {})})
        images = jnp.asarray(theirs["images"], jnp.float64)

        def loss(params):
            logits, updated = model.apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"])
            labels = jnp.arange(len(images))
            shares = jax.nn.log_softmax(logits)
            return -jnp.take_along_axis(shares, labels.reshape(-1, 1), axis=1).mean(), (logits, updated)

        (_, (logits, updated)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        far = {"logits": difference(logits, theirs["train_logits"])}
        for tensor, gradient in to_foreign(model, {"params": grads}).items():
            assert gradient.dtype == np.float64
            if f"grad/{tensor}" in theirs:
                far[f"grad/{tensor}"] = difference(gradient, theirs[f"grad/{tensor}"])
            else:
                far[f"gradsum/{tensor}"] = difference(summary(tensor, gradient), theirs[f"gradsum/{tensor}"])
        for tensor, statistic in to_foreign(model, updated).items():
            far[f"stat/{tensor}"] = difference(statistic, theirs[f"stat/{tensor}"])
    assert {key for key in theirs if key.startswith(("grad/", "gradsum/", "stat/"))} == far.keys() - {"logits"}
    assert len(paths.flatten(params)) + len(paths.flatten(rest)) == len(far) - 1
    assert max(far.values()) < 1e-8, {key: value for key, value in far.items() if value >= 1e-8}
