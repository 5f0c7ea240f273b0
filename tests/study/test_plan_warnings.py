"""Warnings of a plan: batches larger than the training images, and trials that cannot differ."""

import pytest

import jaxft
from jaxft import cli
from jaxft.config import Study, from_dict
from jaxft.store.records import Store
from jaxft.study.plan import make_plan

RANDOM = {
    "seeds": 2,
    "source": {"model": "toy"},
    "target": {"data": "digits", "classes": ["2", "3", "4"], "train_per_class": 6, "val_per_class": 4},
    "training": {"initialization.start": "random", "schedule.epochs": 2.0, "batches.size": 9},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    import jax

    from jaxft.models import create_model
    from jaxft.models.initialization import init_variables
    from jaxft.weights import Manifest, save_weights

    path, model = tmp_path_factory.mktemp("weights") / "toy.safetensors", create_model("toy", num_classes=4)
    manifest = Manifest(path.name, "", "toy", model.preprocessing)
    save_weights(path, model, init_variables(model, jax.random.key(0), 8), manifest)
    return path


def plan(factors, training=(), **changes):
    return make_plan(from_dict(Study, RANDOM | {"training": RANDOM["training"] | dict(training)} | changes
                               | {"factors": [factors]}))  # fmt: skip


def pretrained(weights, factors, **training):
    source = {"model": "toy", "weights": str(weights)}
    return plan(factors, {"initialization.start": "pretrained", **training}, source=source)


def test_levels_without_an_effect_on_a_frozen_backbone_are_reported(weights):
    factors = {"training.regularization.l2_sp.strength": [0.0, 0.1], "training.layers.decay": [1.0, 0.5]}
    assert pretrained(weights, factors).warnings == ()
    frozen = pretrained(weights, factors, **{"layers.backbone_learning_rate": "frozen"})
    assert len(frozen.trials) == 8
    assert frozen.warnings == (
        "6 trials of 8 cannot differ from other trials, because levels of training.regularization.l2_sp.strength, "
        "training.layers.decay have no effect on them, for example because layers are frozen; remove such levels.",
    )
    factors = {"training.layers.backbone_learning_rate": ["frozen", 0.01], "training.layers.decay": [1.0, 0.5]}
    (warning,) = pretrained(weights, factors).warnings  # only the two seeds with a frozen backbone
    assert warning.startswith("2 trials of 8 cannot differ from other trials, because levels of training.layers.decay ")


@pytest.mark.parametrize(
    "factors",
    [
        {"training.regularization.l2_sp.head": [0.0, 0.1]},
        {"training.regularization.dropout.rate": [0.0, 0.5]},
        {"training.optimizer.learning_rate": [0.1, 0.01]},
        {"training.optimizer.weight_decay": [0.0, 0.1]},
        {"training.initialization.head": ["lecun", "zeros"]},
        {"training.loss.label_smoothing": [0.0, 0.1]},
    ],
)
def test_levels_that_act_on_the_head_are_not_reported(weights, factors):
    assert pretrained(weights, factors, **{"layers.backbone_learning_rate": "frozen"}).warnings == ()


def test_the_learning_rate_of_a_probe_by_lbfgs_has_no_effect(weights):
    head = {"layers.backbone_learning_rate": "frozen", "schedule.epochs": 0.0}
    head |= {"linear_probe.optimizer": "lbfgs", "linear_probe.epochs": 5.0}
    (warning,) = pretrained(weights, {"training.optimizer.learning_rate": [0.1, 0.01]}, **head).warnings
    assert warning.startswith("2 trials of 4 cannot differ")
    assert pretrained(weights, {"training.linear_probe.weight_decay": [0.1, 0.01]}, **head).warnings == ()


def test_identical_settings_run_once_and_are_reported():
    factors = {"training.classifier.kind": ["class_mean"], "training.optimizer.learning_rate": [0.1, 0.01]}
    planned = plan(factors)
    assert len(planned.trials) == 2 and len(planned.settings) == 1
    assert planned.warnings == (
        "2 trials of 4 equal other trials and do not run again, because levels of training.optimizer.learning_rate do "
        "not act on them.",
    )


def test_a_batch_larger_than_the_training_images_is_reported():
    factors = {"training.batches.size": [18, 19, 32]}
    warnings = plan(factors).warnings
    assert [warning.split(",")[0] for warning in warnings] == [
        "'training.batches.size' is 19",
        "'training.batches.size' is 32",
    ]
    assert "'digits' has only 18 training images, so a batch contains images more than once" in warnings[0]


CONFIG = """
from jaxft.config import Study, from_dict
import helpers

def get_config(arg=None):
    return from_dict(Study, {config} | {{"factors": [{{"training.optimizer.learning_rate": [0.05, 0.01]}}]}})
"""


@pytest.mark.usefixtures("no_report")
def test_a_smaller_config_reports_the_trials_that_are_kept(tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(config=RANDOM | {"seeds": 1}))
    words = [f"--config={config}", f"--workdir={tmp_path / 'runs'}"]
    assert cli.main(["study", *words]) == 0
    assert "keeps" not in capsys.readouterr().err
    smaller = [*words, "--config.factors=[]", "--config.training.optimizer.learning_rate=0.01"]
    message = f"warning: '{tmp_path / 'runs'}' keeps 1 finished trial of other settings or seeds"
    assert cli.main(["study", *smaller, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.index(message) < printed.index("learning rate")
    assert cli.main(["study", *smaller]) == 0
    printed = capsys.readouterr().err
    assert printed.index(message) < printed.index("parameters are trainable")
    assert len(jaxft.load_results(tmp_path / "runs")) == 1 and len(Store.open(tmp_path / "runs").digests("trials")) == 2


@pytest.mark.usefixtures("no_report")
def test_errors_are_printed_before_tables(tmp_path, capsys, monkeypatch):
    import jaxft.study.pieces

    def fail(*args, **kwargs):
        raise MemoryError("no room on the device")

    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(config=RANDOM | {"seeds": 1}))
    assert cli.main(["config", "show", f"--config={config}", "--config.target.train_per_class=900"]) == 2
    printed = capsys.readouterr()
    assert not printed.out and "'target' requests 904" in printed.err
    monkeypatch.setattr(jaxft.study.pieces, "run_chunk", fail)
    workdir = str(tmp_path / "runs")
    assert cli.main(["study", f"--config={config}", f"--workdir={workdir}"]) == 1
    printed = capsys.readouterr()
    assert "2 trials failed; the same command runs them again." in printed.err
    for words in (["results", workdir], ["results", workdir, "--trials"]):
        assert cli.main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("2 trials failed (") and lines[0].endswith("MemoryError: no room on the device")
        assert any("training.optimizer.learning_rate" in line for line in lines[1:4])
