"""Weight files of sources: the plan reports choices in reading them, and `source.state_dict` selects the weights."""

import numpy as np
import pytest
from helpers import draw_variables

import jaxft
from jaxft.config import Study, from_dict
from jaxft.core import paths
from jaxft.models import create_model
from jaxft.recipes.finetune.options import FinetuneOptions
from jaxft.store.records import Store
from jaxft.study.plan import make_plan
from jaxft.study.services import Services
from jaxft.study.trial_loader import TrialLoader
from jaxft.weights import to_tensors


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Returns a checkpoint of a toy network and its average (all values + 1), and the leaves of the network."""
    torch = pytest.importorskip("torch")
    model = create_model("toy", 4)
    variables = draw_variables(model, 8)
    plain = {f"module.{name}": torch.from_numpy(values) for name, values in to_tensors(model, variables).items()}
    averaged = {name: values + 1 for name, values in plain.items()}
    path = tmp_path_factory.mktemp("weights") / "toy.pth"
    torch.save({"model": plain | {"module.queue": torch.ones(2)}, "model_ema": averaged}, path)
    return path, {name: np.asarray(leaf) for name, leaf in paths.flatten(variables).items()}


def plan_of(path, **source):
    fields = {
        "source": {"model": "toy", "weights": str(path), **source},
        "target": {"data": "digits", "classes": ["0", "1"], "train_per_class": 4, "size_px": 8},
        "training": {"schedule.epochs": 1.0, "batches.size": 4},
    }
    return make_plan(from_dict(Study, fields))


def initial_params(plan, tmp_path):
    loader = TrialLoader(Store(tmp_path / "study"), Services(), 1e9)
    return loader.initial_variables(plan.trials[0])["params"]


def test_the_plan_reports_the_prefix_the_state_dict_and_foreign_tensors(checkpoint, tmp_path):
    path, leaves = checkpoint
    plan = plan_of(path)
    texts = [
        "jaxft takes 'model', not 'model_ema'",
        "the prefix 'module.'",
        "does not record its preprocessing",
        "ignores 1 tensor, which belongs to no",
    ]
    assert len(plan.warnings) == 4  # and the preprocessing, which the file does not record
    assert all(text in warning for text, warning in zip(texts, plan.warnings))
    kernel = initial_params(plan, tmp_path)["stem/conv/kernel"]
    np.testing.assert_array_equal(kernel, leaves["params/stem/conv/kernel"])


def test_the_field_selects_the_weights_and_enters_the_digest(checkpoint, tmp_path):
    path, leaves = checkpoint
    plan, default = plan_of(path, state_dict="model_ema"), plan_of(path)
    assert not any("model_ema" in warning for warning in plan.warnings)
    kernel = initial_params(plan, tmp_path)["stem/conv/kernel"]
    np.testing.assert_array_equal(kernel, leaves["params/stem/conv/kernel"] + 1)
    assert plan.trials[0].digest != default.trials[0].digest
    assert plan.trials[0].source.digest != default.trials[0].source.digest
    with pytest.raises(jaxft.UserError, match=r"no state dict .*'swa'"):
        plan_of(path, state_dict="swa")


def test_a_state_dict_without_weights_is_refused():
    with pytest.raises(jaxft.UserError, match=r"'source\.state_dict' selects weights in a file"):
        from_dict(Study, {"source": {"model": "toy", "state_dict": "model_ema"}})


def test_the_command_of_finetune_keeps_the_state_dict():
    options = FinetuneOptions("w.pth", "images", "out", state_dict="model_ema")
    assert options.command().endswith("--state-dict model_ema")


def test_predict_and_load_report_and_select(checkpoint, capsys):
    path, leaves = checkpoint
    network = jaxft.load(path, "toy", state_dict="model_ema")
    np.testing.assert_array_equal(
        network.variables["params"]["stem"]["conv"]["kernel"], leaves["params/stem/conv/kernel"] + 1
    )
    assert any("prefix 'module.'" in sentence for sentence in network.assumptions)
    model = create_model("toy", 4)
    jaxft.load_weights(path, model, head="new")
    assert capsys.readouterr().err.count("warning: ") == 4  # state dict, prefix, foreign tensors, preprocessing
