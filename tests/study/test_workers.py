"""Worker processes: their imports and their end."""

import collections
import json
import os
import subprocess
from pathlib import Path

import pytest

import jaxft
from jaxft.config import Study, from_dict
from jaxft.core import events
from jaxft.core.devices import child_command
from jaxft.study.pool import _Reports
from jaxft.study.workers import Workers


@pytest.fixture
def hostile_folder(tmp_path, monkeypatch):
    """Returns the current folder; its modules write the file `imported` when they are imported."""
    (tmp_path / "jaxft").mkdir()
    for name in ("json.py", "sitecustomize.py", "jaxft/__init__.py"):
        (tmp_path / name).write_text("from pathlib import Path; Path('imported').write_text(__file__)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_workers_import_nothing_from_the_current_folder(hostile_folder, tmp_path, monkeypatch):
    # The core does not exist, so the worker exits after its first line of JSON, before it imports JAX.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1 << 15})
    workers = Workers({}, tmp_path / "w", 1)
    try:
        assert workers.processes[0].wait(30) == 1
    finally:
        workers.close()
    assert not (hostile_folder / "imported").exists()


def test_a_child_process_imports_the_jaxft_of_its_parent(hostile_folder):
    python, *words = child_command("jaxft.core.devices", "num_cores")
    code = words.index("-c") + 1
    words[code] += "print(package.__file__, sys.path)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = subprocess.check_output([python, "-S", *words], env=environment, text=True)  # without installed packages
    assert output.startswith(jaxft.__file__)
    assert repr(str(Path(jaxft.__file__).parents[1])) not in output and repr(str(hostile_folder)) not in output
    assert not (hostile_folder / "imported").exists()


@pytest.mark.slow
def test_work_of_other_workers_is_counted_once(tmp_path):
    """Each worker goes through all jobs, and finds those that the other has finished."""
    study = {
        "seeds": 4,
        "source": {"model": "cifar_resnet8"},
        "target": {"data": "digits", "size_px": 8, "train_per_class": 2, "test_per_class": 2},
        "training": {"initialization": {"start": "random"}, "schedule": {"epochs": 2.0}},
        "execution": {"executor": "workers", "workers": 2},
    }
    jaxft.run_study(from_dict(Study, study), tmp_path / "w", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "w" / "events.jsonl").read_text().splitlines()]
    kinds = collections.Counter(line["event"] for line in lines)
    assert kinds["TrialFinished"] == 4 and not kinds["WorkDoneElsewhere"]


def test_reports_of_other_processes_are_emitted_once():
    report = events.WorkDoneElsewhere("trials", "a", 5)
    reports = _Reports()
    reports.hold(report)
    reports.hold(report)  # of another worker
    assert not reports.due()
    assert reports.due(0.0) == [report] and not reports.due(0.0)
    reports.hold(report)
    reports.hold(events.WorkDoneElsewhere("trials", "b", 5))
    reports.note(events.TrialFinished("b", "done", 1.0, {}))  # after the report
    assert not reports.due(0.0)
