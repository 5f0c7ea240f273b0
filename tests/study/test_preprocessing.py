"""`source.preprocessing` in a study: warnings, digests, training and exported weights."""

import numpy as np
import pytest
from helpers import draw_variables
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.config import Study, from_dict
from jaxft.models import Preprocessing, create_model
from jaxft.store.records import Store
from jaxft.study.final_weights import final_manifest
from jaxft.study.plan import make_plan
from jaxft.weights import save_weights

GIVEN = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


@pytest.fixture
def study(tmp_path):
    """Returns a function that returns a study with a weight file of 100 classes without metadata, and more fields."""
    model = create_model("toy", 100)
    save_weights(tmp_path / "own.safetensors", model, draw_variables(model, 8))
    save_file(load_file(tmp_path / "own.safetensors"), tmp_path / "toy.safetensors")

    def make(preprocessing, **fields):
        source = {"model": "toy", "weights": str(tmp_path / "toy.safetensors"), "preprocessing": preprocessing}
        target = {"data": "digits", "classes": ["2", "3", "4"], "train_per_class": 6, "val_per_class": 4}
        training = {"schedule.epochs": 2.0, "batches.size": 9, "optimizer.learning_rate": 0.05}
        return from_dict(Study, {"seeds": 1, "source": source, "target": target, "training": training} | fields)

    return make


def test_the_plan_warns_of_assumed_preprocessing(study):
    (warning,) = make_plan(study({})).warnings
    assert warning.startswith("toy.safetensors does not record its preprocessing, so jaxft assumes the default of toy")
    assert "its 100 classes suggest CIFAR-100, whose networks here use mean (0.507, 0.487, 0.441)" in warning
    assert "source.preprocessing" in warning and "--mean" in warning
    assert len(make_plan(study({"mean": GIVEN["mean"]})).warnings) == 1
    assert make_plan(study(GIVEN)).warnings == ()


def test_given_preprocessing_is_part_of_the_trial(study):
    (trial,) = make_plan(study(GIVEN)).trials
    expected = Preprocessing(8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert {phase.preprocessing for phase in trial.program.phases} == {expected}
    assert final_manifest(trial).preprocessing == expected and not final_manifest(trial).assumed
    default = create_model("toy", 2).preprocessing
    values = [{}, {"mean": default.mean}, {"channel_order": "bgr"}, {"size_px": 16}, GIVEN, {"std": GIVEN["std"]}]
    digests = [make_plan(study(value)).trials[0].digest for value in values]
    assert digests[0] == digests[1] and len(set(digests)) == 5


def test_preprocessing_without_weights_describes_a_network_from_scratch(study):
    scratch = study(GIVEN, source={"model": "toy", "preprocessing": GIVEN}, training={"initialization.start": "random"})
    assert make_plan(scratch).trials[0].program.phases[0].preprocessing == Preprocessing(8, *GIVEN.values())
    with pytest.raises(jaxft.UserError, match=r"'source.preprocessing' describes pretrained weights"):
        study(GIVEN, source={"model": "toy", "preprocessing": GIVEN, "images": {"data": "digits"}})


@pytest.mark.slow
def test_settings_with_other_preprocessing_share_no_features_and_no_measurements(study, tmp_path):
    """A setting has the same result in a study with two means as in a study with one; the page has the warning."""
    blocks = [
        {"training.layers.backbone_learning_rate": ["frozen"]},
        {
            "training.regularization.delta.strength": [0.1],
            "training.layers.backbone_learning_rate": [0.01],
        },
    ]
    means = [(0.9, 0.9, 0.9), GIVEN["mean"]]
    execution = {"keep_weights": "all", "executor": "sequential"}
    both = study({}, factors=[{**b, "source.preprocessing.mean": means} for b in blocks], execution=execution)
    one = study({"mean": GIVEN["mean"]}, factors=blocks, execution=execution)
    for name, each in (("both", both), ("one", one)):
        jaxft.run_study(each, tmp_path / name, quiet=True)
    stores = Store(tmp_path / "both"), Store(tmp_path / "one")
    trials = make_plan(one).trials
    assert len(trials) == 2 and len(make_plan(both).trials) == 4
    for trial in trials:
        first, second = (store.arrays("trials", trial.digest) for store in stores)
        assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in second)
    exported = jaxft.load(stores[1].weights_path(trials[0].digest))
    assert exported.preprocessing.mean == GIVEN["mean"] and exported.assumptions == ()
    assert "does not record its preprocessing" in (tmp_path / "one" / "report.html").read_text()
