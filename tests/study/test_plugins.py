"""Plug-ins: modules outside jaxft that a study names, in this process and in workers."""

import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from jaxft import UserError
from jaxft.config import Study, from_dict
from jaxft.store.records import Store
from jaxft.study.plan import make_plan

FIELDS = {
    "seeds": 2,
    "source": {"model": "resnetsmall8"},
    "target": {"data": "digits", "size_px": 16, "train_per_class": 2, "val_per_class": 1},
    "training": {"initialization": {"start": "random"}, "schedule": {"epochs": 1}, "batches": {"size": 10}},
}


def examples(root):
    """Returns the code of CONTRIBUTING.md that adds something, as one module."""
    text = (root / "CONTRIBUTING.md").read_text()
    return "\n".join(re.findall(r"```python\n(.*?)```", text[text.index("## Adding something") :], re.DOTALL))


@pytest.mark.slow
def test_what_a_plugin_registers_is_in_records_tables_and_page_of_a_study_by_workers(root, tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "my_plugin.py").write_text(examples(root))
    fields = FIELDS | {"plugins": ["my_plugin"], "execution": {"executor": "workers", "workers": 2}}
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {fields!r}\n")
    folders = [str(tmp_path / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "XLA_FLAGS": ""}

    def run(*words):
        command = [sys.executable, "-P", "-m", "jaxft.cli", *words]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    run("study", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}")
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    assert table["num_train"].tolist() == [20, 20] and table["executor"].tolist() == ["workers"] * 2
    store = Store.open(tmp_path / "run")
    for digest in table["trial"]:
        record = store.read("trials", digest)
        assert record["identity"]["content"]["plugins"] == {"my_plugin": "1"}
        assert all(change["mean_abs_change"] > 0 for change in record["changes"].values())
    assert "<h2>Best setting</h2>" in (tmp_path / "run" / "report.html").read_text()
    layers = run("results", str(tmp_path / "run"), "--layers", "--measure", "mean_abs_change")
    assert "mean_abs_change of each layer, mean of |w - w0|" in layers


def test_the_version_of_a_plugin_is_part_of_the_digest_of_each_trial(tmp_path, monkeypatch):
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
        (None, "there is no plug-in 'broken_plugin'; 'plugins' names Python modules"),
        ("", "the plug-in 'broken_plugin' declares no version; give its module __version__ = '1'."),
        ("import nothing_of_the_kind", "needs the module 'nothing_of_the_kind', which is not installed."),
        ("1 / 0", "the plug-in 'broken_plugin' fails: ZeroDivisionError: division by zero."),
        (
            "from jaxft.core.registries import EXECUTORS\nEXECUTORS.register('vmap', None)",
            "there are two executors called 'vmap'; a plug-in must give its own another name.",
        ),
    ],
    ids=["none", "no version", "needs another", "fails", "taken"],
)
def test_a_plugin_that_cannot_be_used_is_one_sentence(code, sentence, tmp_path, monkeypatch):
    if code is not None:
        (tmp_path / "broken_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    with pytest.raises(UserError, match=re.escape(sentence)):
        from_dict(Study, FIELDS | {"plugins": ["broken_plugin"]})
