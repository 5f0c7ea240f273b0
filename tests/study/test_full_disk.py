"""A full disk at every place that writes: one sentence, nothing half-written, and the same command continues.

The file system is full for the files that match a pattern: their temporary file is a link to /dev/full, so the real
writers get the real error.
"""

import contextlib
import errno
import os
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import draw_variables
from test_damaged_files import draw_images, results_of, run, study_of

from jaxft.cli import main
from jaxft.core import files
from jaxft.core.errors import UserError
from jaxft.core.files import TEMPORARY
from jaxft.models import create_model
from jaxft.store.checkpoints import StoredCheckpoints
from jaxft.store.records import Store
from jaxft.weights import save_weights

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")

# The files that the command of a study writes, and that it cannot do without.
STUDY_SITES = [
    "study.json",
    "plan.json",
    "convolution.json",
    "runs/*.json",
    "groups/*.json",
    "splits/*.json",
    "sources/*.safetensors",
    "sources/*.npz",
    "sources/*.json",
    "weights/*.safetensors",
    "snapshots/*/*.safetensors",
    "trials/*.npz",
    "trials/*.json",
    "analyses/*.npz",
    "analyses/*.json",
    "results.csv",
    "results.parquet",
    "analyses.csv",
    "report.html",
]
# The other files of a study: it warns, or computes without them.
OPTIONAL_SITES = ["events.jsonl", "features", "images"]
WEIGHT_SITES = [".safetensors", ".pth", ".npz", ".msgpack", ".orbax", ".safetensors.index.json"]


@contextlib.contextmanager
def full_disk(pattern):
    """Makes the file system full for files that match a pattern, inside the context."""
    new_file, sync = files._temporary, files._sync

    def temporary(path):
        if not path.match(pattern):
            return new_file(path)
        link = path.parent / f"{TEMPORARY}full{path.suffix}"
        link.symlink_to("/dev/full")
        return link

    def full_sync(path):  # weights are written into a temporary folder first
        if path.match(pattern.replace("/*.safetensors", "/*/*.safetensors")) and path.suffix == ".safetensors":
            no_space()
        sync(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_temporary", temporary)
        patch.setattr(files, "_sync", full_sync)
        yield


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    draw_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left_over(folder):
    return list(folder.rglob(f"{TEMPORARY}*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Returns the results of the study on a disk with space."""
    folder = tmp_path_factory.mktemp("undisturbed")
    draw_images(folder / "images")
    run(folder)
    return results_of(folder / "study")


IN_ALL_RUNS = ("trials/*.npz", "weights/*.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "site", [site if site in IN_ALL_RUNS else pytest.param(site, marks=pytest.mark.slow) for site in STUDY_SITES]
)
def test_a_study_stops_in_one_sentence_and_continues(folder, undisturbed, monkeypatch, site):
    if site != "report.html":
        monkeypatch.setattr("jaxft.report.write_report", lambda workdir: None)
    sentence = r"^no space is left on the device of .*run the same command again.*\.$"
    with full_disk(f"study/{site}"), pytest.raises(UserError, match=sentence):
        run(folder)
    assert not left_over(folder)
    run(folder)
    assert results_of(folder / "study") == undisturbed


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("site", OPTIONAL_SITES)
def test_a_study_runs_without_its_log_and_its_cache(folder, undisturbed, monkeypatch, site):
    pattern = "features/*.pack" if site == "features" else "nothing"
    if site == "events.jsonl":
        Store.create(folder / "study")
        (folder / "study" / "events.jsonl").symlink_to("/dev/full")
    elif site == "images":
        monkeypatch.setattr("jaxft.data.readers.decoded._write", no_space)
    with full_disk(pattern):
        run(folder)
    assert results_of(folder / "study") == undisturbed


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), ValueError("RESOURCE_EXHAUSTED: write failed [os_error_code='28']")],
    ids=["OSError", "TensorStore"],
)
def test_a_checkpoint_on_a_full_disk(tmp_path, monkeypatch, error):
    def save(*args, **kwargs):
        raise error

    checkpoints = StoredCheckpoints(tmp_path, "k")
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", save)
        with pytest.raises(UserError, match="no space is left"):
            checkpoints.save(1, {"a": np.ones(3)})
    assert checkpoints.latest() is None
    checkpoints.save(1, {"a": np.ones(3)})
    assert checkpoints.latest() == 1


def test_a_lock_on_a_full_disk(tmp_path, monkeypatch):
    store = Store.create(tmp_path / "w")
    monkeypatch.setattr("jaxft.store.records.locked", no_space)
    with pytest.raises(UserError, match="no space is left"), store.claim("k"):
        pass


@pytest.mark.parametrize("suffix", WEIGHT_SITES)
def test_weights_on_a_full_disk(tmp_path, monkeypatch, suffix):
    """The file that the writer of the format opens is full; an earlier file of this name stays whole."""
    model = create_model("toy", 3)
    path = tmp_path / f"w{suffix}"
    save_weights(path, model, draw_variables(model, 8))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("jaxft.core.files._sync", no_space)
        with pytest.raises(UserError, match="no space is left"):
            save_weights(path, model, draw_variables(model, 8, seed=2))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    save_weights(path, model, draw_variables(model, 8, seed=2))


def test_a_split_on_a_full_disk(folder, capsys):
    (folder / "config.py").write_text(f"def get_config():\n    return {study_of()!r}\n")
    words = ["split", "--config=config.py", "--out=splits"]
    with full_disk("splits/*.json"):
        assert main(words) == 2
    assert "no space" in capsys.readouterr().err.lower()
    assert not list((folder / "splits").iterdir())
    assert main(words) == 0
