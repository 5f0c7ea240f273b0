"""docs/minimal.py trains in plain JAX, Flax and Optax, and ends with the weights of a trial of a study."""

import dataclasses
import importlib.util
import sys

import jax
import numpy as np
import pytest
from helpers import draw_variables

import jaxft
from jaxft.config import Images
from jaxft.core.paths import flatten
from jaxft.data.sampling.drawing import draw
from jaxft.models import create_model
from jaxft.store.records import Store

CLASSES = ("5", "6", "7")


@pytest.fixture
def minimal(root, monkeypatch):
    """Returns the script as a module."""
    spec = importlib.util.spec_from_file_location("minimal", root / "docs" / "minimal.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "minimal", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_ten_steps_of_the_script_agree_with_a_trial(minimal, tmp_path):
    weights = tmp_path / "source.safetensors"
    jaxft.save_weights(weights, create_model("toy", 4), draw_variables(create_model("toy", 4), 8))
    augmentations = {"crop.padding_px": 2, "flip.enabled": True}
    settings = minimal.Settings(
        num_steps=10, batch_size=16, augmentations=minimal.Augmentations.of(augmentations), seed=3
    )
    study = {
        "seeds": [3],
        "source": {"model": "toy", "weights": str(weights)},
        "target": {"data": "digits", "classes": CLASSES, "train_per_class": 20, "size_px": 8},
        "training": {
            "optimizer.learning_rate": settings.learning_rate,
            "optimizer.momentum": settings.momentum,
            "optimizer.weight_decay": settings.weight_decay,
            "schedule.steps": settings.num_steps,
            "batches.size": settings.batch_size,
            **{f"augmentation.{name}": value for name, value in augmentations.items()},
            "selection.weights": "last",
        },
    }
    results = jaxft.run_study(study, tmp_path / "study", quiet=True)
    model = create_model("toy", len(CLASSES))
    trained = jaxft.load_weights(Store(tmp_path / "study").weights_path(results["trial"][0]), model)
    drawn = draw(Images("digits", classes=CLASSES, train_per_class=20), seed=3, size_px=8)
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        variables, preprocessing = minimal.fine_tune(model, weights, drawn, settings)
        other = dataclasses.replace(settings, seed=4)
        elsewhere, _ = minimal.fine_tune(model, weights, drawn, other)
    before = flatten(jaxft.load_weights(weights, create_model("toy", 4)))
    found, expected = flatten(variables), flatten(trained)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert "head" in name or np.abs(leaf - before[name]).max() > 1e-3, name  # it has trained
        np.testing.assert_allclose(found[name], leaf, atol=1e-5, err_msg=name)
    accuracy = minimal.accuracy(model, preprocessing, variables, drawn)
    assert accuracy == pytest.approx(results["test_accuracy"][0], abs=2 / len(drawn.split.test))
    assert np.abs(flatten(elsewhere)["params/head/kernel"] - found["params/head/kernel"]).max() > 1e-3
