"""Worker processes: what they import, and that they end."""

import os
import subprocess
from pathlib import Path

import pytest

import jaxft
from jaxft.core.devices import child_command
from jaxft.study.workers import Workers


@pytest.fixture
def hostile_folder(tmp_path, monkeypatch):
    """Returns the current folder, whose modules write the file `imported` beside them."""
    (tmp_path / "jaxft").mkdir()
    for name in ("json.py", "sitecustomize.py", "jaxft/__init__.py"):
        (tmp_path / name).write_text("from pathlib import Path; Path('imported').write_text(__file__)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_workers_import_nothing_from_the_current_folder(hostile_folder, tmp_path, monkeypatch):
    # A core that no machine has ends the worker right after its first line of JSON, before it imports JAX.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1 << 15})
    workers = Workers({}, tmp_path / "w", 1)
    try:
        assert workers.processes[0].wait(30) == 1
    finally:
        workers.close()
    assert not (hostile_folder / "imported").exists()


def test_a_child_has_the_jaxft_of_this_process_also_where_it_is_not_installed(hostile_folder):
    python, *words = child_command("jaxft.core.devices", "num_cores")
    place = words.index("-c") + 1
    words[place] += "print(package.__file__, sys.path)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = subprocess.check_output([python, "-S", *words], env=environment, text=True)  # without installed packages
    assert said.startswith(jaxft.__file__)
    assert repr(str(Path(jaxft.__file__).parents[1])) not in said and repr(str(hostile_folder)) not in said
    assert not (hostile_folder / "imported").exists()
