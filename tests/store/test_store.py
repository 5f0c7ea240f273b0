"""Records appear whole or not at all, whoever writes and whoever is killed."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.config import SCHEMA_VERSION
from jaxft.core.errors import UserError
from jaxft.core.files import explained_os_errors, write_once
from jaxft.core.locks import locked
from jaxft.store.records import Store


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "work")


def test_a_record_is_never_changed(store):
    arrays = {"epoch": np.arange(3.0), "leaf/l2/stem/conv/kernel": np.float32(0.5)}
    store.write("trials", "aa", {"status": "done"}, arrays)
    store.write("trials", "aa", {"status": "other"}, arrays)
    assert store.has("trials", "aa") and store.read("trials", "aa") == {"status": "done"}
    assert store.read("trials", "bb") is None and not store.has("trials", "bb")
    kept = store.arrays("trials", "aa")
    np.testing.assert_array_equal(kept["epoch"], [0.0, 1.0, 2.0])
    assert kept["leaf/l2/stem/conv/kernel"] == 0.5


def test_a_failure_is_deleted_when_the_trial_succeeds(store):
    store.write_failure("aa", {"status": "failed"})
    store.write("trials", "aa", {"status": "done"}, {})
    assert store.read("failures", "aa") is None


def test_no_temporary_file_remains(store):
    store.write("trials", "aa", {}, {"x": np.zeros(3)})
    with pytest.raises(TypeError), store.writing_weights("aa") as path:
        path.write_bytes(b"half")
        raise TypeError
    assert not list(store.workdir.rglob(".tmp-*")) and not store.weights_path("aa").exists()


def test_nan_is_refused_because_json_cannot_store_it(store):
    with pytest.raises(ValueError, match="Out of range float"):
        store.write("trials", "aa", {"accuracy": float("nan")}, {})
    assert not store.has("trials", "aa")


def test_the_first_writer_wins(tmp_path):
    assert write_once(tmp_path / "a", b"first") and not write_once(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1


def test_without_hard_links_a_record_is_renamed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    assert write_once(tmp_path / "a", b"first") and not write_once(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "no space"), (errno.EROFS, "cannot write")])
def test_disk_errors_are_one_sentence(tmp_path, code, said):
    with pytest.raises(UserError, match=said), explained_os_errors(tmp_path):
        raise OSError(code, os.strerror(code))


def test_old_temporary_files_are_deleted_and_new_ones_kept(store):
    old, young = store.workdir / ".tmp-old", store.workdir / ".tmp-young"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    Store.create(store.workdir)
    assert not old.exists() and young.exists()


def test_temporary_files_of_a_killed_writer_are_not_read(store):
    store.write_plan({"trials": [], "factors": []})
    for folder in ("analyses", "runs", "trials"):
        (store.workdir / folder).mkdir(exist_ok=True)
        (store.workdir / folder / ".tmp-half.json").write_text('{"analysis": ')
    assert store.pairwise() is None and store.runs() == [] and store.results().empty


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"contains other files \(thesis\.tex\)"):
        Store.create(tmp_path)
    with pytest.raises(UserError, match="no study"):
        Store.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("found, words", [(SCHEMA_VERSION - 1, "an older version"), (99, "a newer version")])
@pytest.mark.parametrize("use", [Store.create, Store.open])
def test_the_error_for_another_schema_names_a_remedy(store, use, found, words):
    marker = store.workdir / "study.json"
    marker.write_text(json.dumps({"format": "jaxft study", "schema": found}))
    with pytest.raises(UserError, match=f"{words} .*schema {found}.*name another work directory") as refusal:
        use(store.workdir)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) - len(str(store.workdir)) < 250
    assert json.loads(marker.read_text())["schema"] == found


def test_checkpoints_are_restored_unchanged(store):
    tree = {"state": (jnp.arange(6.0).reshape(2, 3), {"count": jnp.int32(4)}), "history": np.full((2, 4), np.nan)}
    checkpoints = store.checkpoints("k")
    assert checkpoints.latest() is None
    checkpoints.save(1, tree)
    checkpoints.save(2, tree | {"history": np.zeros((2, 4))})
    assert checkpoints.latest() == 2
    back = checkpoints.load(2, tree)
    np.testing.assert_array_equal(back["state"][0], tree["state"][0])
    np.testing.assert_array_equal(back["history"], np.zeros((2, 4)))
    assert back["history"].dtype == np.float64
    checkpoints.drop()
    assert checkpoints.latest() is None


WRITER = """
import sys, numpy as np
from jaxft.store.records import Store
store = Store.create(sys.argv[1])
print("ready", flush=True)
for i in range(100000):
    store.write("trials", f"{i:06d}", {"i": i, "writer": sys.argv[2]}, {"x": np.full(500, i)})
"""


@pytest.mark.slow
def test_records_of_killed_writers_are_complete(tmp_path):
    """Two writers of the same records, both killed: every record there is whole, and its arrays are its own."""
    for _ in range(5):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "w"), str(n)], stdout=subprocess.PIPE)
            for n in range(2)
        ]
        for writer in writers:
            writer.stdout.readline()
        time.sleep(0.4)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
    store = Store.open(tmp_path / "w")
    records = sorted((tmp_path / "w" / "trials").glob("[!.]*.json"))
    assert records
    for path in records:
        record = json.loads(path.read_bytes())
        assert record["i"] == int(path.stem)
        assert (store.arrays("trials", path.stem)["x"] == record["i"]).all()


def test_one_process_holds_a_lock_which_is_released_when_it_ends(tmp_path):
    path = tmp_path / "locks" / "one.lock"
    code = "import pathlib, sys, time; from jaxft.core.locks import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])) as mine:\n"
    code += "    print(mine, flush=True); time.sleep(600)"
    owner = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline().strip() == "True"
        with locked(path, wait=False) as mine:
            assert not mine
    finally:
        owner.kill()
        owner.communicate()
    with locked(path) as mine:  # though the file is still there
        assert mine and path.is_file()
    assert not path.exists()


def test_a_file_system_without_locks_is_named(store, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(UserError, match=r"does not support locks \(flock\).*use a folder on another file system"),
        store.claim("a"),
    ):
        pass
