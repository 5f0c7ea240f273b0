"""Plug-ins: modules outside jaxft that a study loads, in this process and in workers."""

import dataclasses
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from sklearn.datasets import load_digits

from jaxft import UserError
from jaxft.config import Study, from_dict
from jaxft.config.fields import setting
from jaxft.core.registries import DATA_FACTORS, OPTIMIZERS, TRACKERS
from jaxft.core.registry import registering
from jaxft.store.records import Store
from jaxft.study.plan import make_plan

FIELDS = {
    "seeds": 2,
    "source": {"model": "resnetsmall8"},
    "target": {"data": "digits", "size_px": 16, "train_per_class": 2, "val_per_class": 1},
    "training": {"initialization": {"start": "random"}, "schedule": {"epochs": 1}, "batches": {"size": 10}},
}


def examples(root):
    """Returns the examples of extensions in CONTRIBUTING.md, as the code of one module."""
    text = (root / "CONTRIBUTING.md").read_text()
    return "\n".join(re.findall(r"```python\n(.*?)```", text[text.index("## Adding something") :], re.DOTALL))


@pytest.fixture
def run(root, tmp_path):
    """Returns a function that runs a command of jaxft with the examples of CONTRIBUTING.md as a plug-in."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "my_plugin.py").write_text(examples(root))
    folders = [str(tmp_path / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "XLA_FLAGS": ""}

    def run(*words):
        command = [sys.executable, "-P", "-m", "jaxft.cli", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def study(run, tmp_path):
    """Returns a function that runs a study with the plug-in, and returns its work directory and results."""

    def study(name, **fields):
        config, workdir = tmp_path / f"{name}.py", tmp_path / name
        fields = FIELDS | {"plugins": ["my_plugin"]} | fields
        config.write_text(f"def get_config():\n    return {fields!r}\n")
        run("study", f"--config={config}", f"--workdir={workdir}")
        return workdir, pd.read_csv(workdir / "results.csv")

    return study


@pytest.mark.slow
def test_all_extensions_of_a_plugin_work_in_a_study_with_workers(run, study, tmp_path):
    """The extensions appear in the digest, the records, the tables, the page and the help of the fields."""
    fields = {
        "initialization.start": "pretrained",
        "optimizer.name": "rmsprop",
        "optimizer.rmsprop.eps": 1e-6,
        "schedule.shape": "inverse_sqrt",
        "schedule.epochs": 1,
        "batches.size": 10,
        "loss.name": "focal",
        "loss.focal.gamma": 1.0,
        "regularization.feature_pull.strength": 0.1,
        "augmentation.invert.active": True,
    }
    images = FIELDS["target"] | {"size_px": 8}
    pretraining = {"schedule.epochs": 1, "batches.size": 10}
    workdir, table = study(
        "by_workers",
        source={"model": "perceptron", "images": images, "training": pretraining},
        target=images | {"darker.factor": 0.5},
        training=fields,
        execution={"executor": "workers", "workers": 2, "trackers": ["curves"]},
    )
    assert table["num_train"].tolist() == [20, 20] and table["executor"].tolist() == ["workers"] * 2
    assert table["status"].tolist() == ["done"] * 2
    names = table.columns.tolist()
    metrics = ["test_mean_per_class", "val_worst_class", "test_worst_class", "selected_epoch"]
    assert names[names.index(metrics[0]) :][:4] == metrics
    store = Store.open(workdir)
    labels = load_digits().target
    for digest, worst in zip(table["trial"], table["test_worst_class"]):
        record, arrays = store.read("trials", digest), store.arrays("trials", digest)
        right = arrays["test_predictions"] == labels[arrays["test_rows"]]
        by_class = [right[labels[arrays["test_rows"]] == label].mean() for label in range(10)]
        assert worst == record["test_worst_class"] == pytest.approx(min(by_class))
        assert arrays["val_worst_class"].tolist() == [record["val_worst_class"]]  # the only epoch
        assert record["identity"]["content"]["plugins"] == {"my_plugin": "1"}
        chosen = record["identity"]["fields"]
        assert chosen["training.optimizer.rmsprop.eps"] == 1e-6 and chosen["training.augmentation.invert.active"]
        assert all(change["mean_abs_change"] > 0 for change in record["changes"].values())
    page = (workdir / "report.html").read_text()
    assert "<h2>Best setting</h2>" in page
    assert "worst class, %" in page and "lowest of the accuracies on a class, on the test images" in page
    assert "worst class %" in run("results", str(workdir))
    assert len((workdir / "curves.txt").read_text().splitlines()) >= 2
    layers = run("results", str(workdir), "--layers", "--measure", "mean_abs_change")
    assert "mean_abs_change of each layer, mean of |w - w0|" in layers
    shown = run("config", "show", f"--config={tmp_path / 'by_workers.py'}")
    assert "RMSProp: added to the mean square of the gradient" in shown and "target.darker.factor" in shown
    weights = next((workdir / "weights").rglob("*.safetensors"))
    run("weights", "convert", str(weights), str(tmp_path / "w.json"), "--plugin=my_plugin", "--naming=my_library")
    assert '"last.bias"' in (tmp_path / "w.json").read_text()
    assert "perceptron" in run("weights", "inspect", str(tmp_path / "w.json"), "--plugin=my_plugin")


@pytest.mark.slow
def test_executor_classifier_pooling_and_reader_of_a_plugin(study, tmp_path):
    """The accuracy of 'most_frequent' is the fraction of this class among the test images, here a half."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "pixels.raw").write_bytes(bytes(range(256)) * 4)
    images = {"data": str(tmp_path / "raw"), "size_px": 16, "train_per_class": 4, "test_per_class": 4}
    network = FIELDS["training"] | {"batches.size": 8}
    classifiers = {"classifier.kind": "most_frequent", "classifier.pooling": "norm", "initialization.start": "random"}
    _, table = study("features", target=images, training=classifiers)
    assert table["test_accuracy"].tolist() == [0.5, 0.5]
    _, table = study("pairs", target=images, training=network, execution={"executor": "pairs"})
    assert table["executor"].tolist() == ["pairs", "pairs"] and table["status"].tolist() == ["done", "done"]


def test_the_version_of_a_plugin_is_part_of_the_digest(tmp_path, monkeypatch):
    (tmp_path / "versioned_plugin.py").write_text('__version__ = "1"\n')
    monkeypatch.syspath_prepend(tmp_path)

    def digest_with(**fields):
        return make_plan(from_dict(Study, FIELDS | {"seeds": 1} | fields)).trials[0].digest

    first = digest_with(plugins=["versioned_plugin"])
    assert first == digest_with(plugins=["versioned_plugin"]) != digest_with()
    monkeypatch.setattr(sys.modules["versioned_plugin"], "__version__", "2")
    assert digest_with(plugins=["versioned_plugin"]) != first


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (None, "the plug-in 'broken_plugin' does not exist; 'plugins' names Python modules"),
        ("", "the plug-in 'broken_plugin' does not declare a version; add __version__ = '1' to its module."),
        ("import nothing_of_the_kind", "needs the module 'nothing_of_the_kind', which is not installed."),
        ("1 / 0", "the plug-in 'broken_plugin' fails: ZeroDivisionError: division by zero."),
        (
            "from jaxft.core.registries import EXECUTORS\nEXECUTORS.register('vmap', None)",
            "two executor entries are called 'vmap'; a plug-in must use another name.",
        ),
    ],
    ids=["none", "no version", "needs another", "fails", "taken"],
)
def test_an_unusable_plugin_is_a_user_error(code, sentence, tmp_path, monkeypatch):
    if code is not None:
        (tmp_path / "broken_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    with pytest.raises(UserError, match=re.escape(sentence)):
        from_dict(Study, FIELDS | {"plugins": ["broken_plugin"]})


@dataclasses.dataclass(frozen=True)
class Half:
    """A section of a plug-in."""

    factor: float = setting(1.0, "factor")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"training": FIELDS["training"] | {"optimizer.name": "halved"}}, "training.optimizer.name"),
        ({"target": {"halved.factor": 0.5}}, "target.halved"),
        ({"execution": {"trackers": ["halved"]}}, "execution.trackers"),
        ({"factors": [{"training.optimizer.name": ["sgd", "halved"]}]}, "training.optimizer.name"),
    ],
    ids=["name", "section", "execution", "factor"],
)
def test_a_study_lists_each_plugin_that_it_uses(fields, field, monkeypatch, tmp_path):
    """A plug-in that another study has loaded here is not there in workers, and its version not in the digest."""
    registries = OPTIMIZERS, DATA_FACTORS, TRACKERS
    for registry in registries:
        monkeypatch.setattr(registry, "entries", dict(registry.items()))
    with registering("halving"):
        for registry in registries:
            registry.register("halved", lambda *args: None, section=Half if registry is DATA_FACTORS else None)
    (tmp_path / "halving.py").write_text('__version__ = "1"\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=re.escape(f"'{field}' needs the plug-in 'halving'; add it to 'plugins'")):
        from_dict(Study, FIELDS | fields)
    assert from_dict(Study, FIELDS | fields | {"plugins": ["halving"]}).plugins == ("halving",)
    assert from_dict(Study, FIELDS | {"target": {"halved.factor": 1.0}}).plugins == ()
