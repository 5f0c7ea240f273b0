"""Damaged files of a work directory and of the cache: they are named, set aside, and their work is repeated."""

import contextlib
import json
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxft
from jaxft.cli import main
from jaxft.config import Study, from_dict
from jaxft.core import interrupts
from jaxft.core.errors import UserError
from jaxft.core.events import Warned
from jaxft.store.checkpoints import StoredCheckpoints
from jaxft.store.records import Store
from jaxft.store.sealed import DamagedFile, seal, unseal
from jaxft.tracking.json_lines import read_events

pytestmark = pytest.mark.usefixtures("no_report")

# Every kind of file that a study writes into its work directory, except checkpoints (`test_checkpoints.py`), and every
# kind of file in the cache folder, except the compiled handler (`tests/ops/test_onednn.py`) and the programs of JAX.
KINDS = [
    "study.json",
    "plan.json",
    "convolution.json",
    "groups/*.json",
    "runs/*.json",
    "splits/*.json",
    "trials/*.json",
    "trials/*.npz",
    "sources/*.json",
    "sources/*.npz",
    "sources/*.safetensors",
    "weights/*.safetensors",
    "snapshots/*/*.safetensors",
    "analyses/*.json",
    "analyses/*.npz",
    "events.jsonl",
    "results.csv",
    "results.parquet",
    "analyses.csv",
    "report.html",
]
CACHE_KINDS = ["images/*.npy", "features/*.pack"]
UNREAD = ("events.jsonl", "results.csv", "results.parquet", "analyses.csv", "report.html")  # no result depends on them
REPAIRED = [kind for kind in KINDS if kind not in UNREAD]


def study_of(**changes):
    return {
        "seeds": 2,
        "source": {
            "model": "toy",
            "images": {"data": "digits", "classes": ["0", "1"], "train_per_class": 20, "val_per_class": 5},
            "training": {"schedule.epochs": 1.0, "batches.size": 20, "optimizer.learning_rate": 0.05},
        },
        "target": {"data": "images", "size_px": 8, "train_per_class": 6, "val_per_class": 3},
        "training": {"schedule.epochs": 2.0, "batches.size": 6, "optimizer.learning_rate": 0.05},
        "factors": [{"training.layers.backbone_learning_rate": ["frozen", 0.01]}],
        "analyses": ["trajectory"],
        "execution": {"executor": "sequential", "snapshot_steps": [2, 4]},
    } | changes


def draw_images(folder):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(12):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def run(folder, **changes):
    """Runs the study in a folder; paths in its records are relative, so that a copy of the folder has the same."""
    with contextlib.chdir(folder):
        jaxft.run_study(from_dict(Study, study_of(**changes)), "study", quiet=True)


def results_of(workdir):
    """Returns everything that a study measures, except seconds."""
    store = Store.open(workdir)
    arrays = {
        (kind, digest, name): array.tobytes()
        for kind in ("trials", "sources", "analyses")
        for digest in sorted(store.digests(kind))
        for name, array in store.arrays(kind, digest).items()
    }
    weights = {str(path.relative_to(workdir)): path.read_bytes() for path in workdir.rglob("*.safetensors")}
    table = store.results().drop(columns="seconds").to_json()
    return (
        table,
        store.changes().to_json(),
        arrays,
        weights,
        sorted(path.name for path in workdir.glob("splits/*.json")),
    )


@pytest.fixture(scope="module")
def ran(made_once):
    """Returns a folder with images, a finished study of them, and the cache folder of the study; tests only read it."""

    def make(folder):
        draw_images(folder / "images")
        os.environ["JAXFT_CACHE"] = str(folder / "cache")
        run(folder)

    return made_once("damaged", make)


@pytest.fixture
def copied(ran, tmp_path, monkeypatch):
    """Returns a copy of `ran` that a test may change."""
    for name in ("study", "cache"):
        shutil.copytree(ran / name, tmp_path / name)
    (tmp_path / "images").symlink_to(ran / "images")
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def expected(ran):
    return results_of(ran / "study")


def warnings_of(workdir):
    return [event.message for _, event in read_events(workdir / "events.jsonl") if isinstance(event, Warned)]


def file_of(folder, kind):
    return min(path for path in folder.glob(kind) if not path.name.startswith("."))


def flip(path, rng):
    """Flips a bit of a file, in a new file, because this process may have mapped the old one."""
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(content)


def test_there_is_a_file_of_every_kind(ran):
    assert all(list((ran / "study").glob(kind)) for kind in KINDS)
    assert all(list((ran / "cache").glob(kind)) for kind in CACHE_KINDS)
    known = {path for kind in KINDS for path in (ran / "study").glob(kind)}
    assert {path for path in (ran / "study").rglob("*") if path.is_file()} == known


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["{}", "[]", "", "cut", "\xff"])
def test_all_damaged_records_are_set_aside_and_their_work_repeated(copied, expected, damage):
    workdir = copied / "study"
    paths = [path for kind in REPAIRED if kind != "plan.json" for path in workdir.glob(kind)]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else damage.encode("latin-1"))
    run(copied)
    warnings = warnings_of(workdir)
    assert warnings and all("damaged or incomplete" in warning for warning in warnings)
    assert all(path.with_name(path.name + ".damaged").is_file() for path in paths if path.parent.name != "analyses")
    assert results_of(workdir) == expected
    run(copied)
    assert warnings_of(workdir) == warnings, "nothing is damaged any more"


# Without an unfinished trial, a missing source is not trained.
@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in REPAIRED if not kind.startswith("sources/")])
def test_a_missing_file_is_written_again(copied, expected, kind):
    file_of(copied / "study", kind).unlink()
    run(copied)
    assert results_of(copied / "study") == expected


def test_an_edited_record_runs_again(copied, expected):
    path = file_of(copied / "study", "trials/*.json")
    path.write_text(re.sub(r'"test_accuracy": [\d.]+', '"test_accuracy": 0.999', path.read_text()))
    with pytest.raises(DamagedFile, match=f"{path.name}.*is damaged or missing; run the command of the study again"):
        jaxft.load_results(copied / "study")
    run(copied)
    assert results_of(copied / "study") == expected


def test_a_record_under_the_name_of_another_is_damaged(copied, expected):
    first, second = sorted((copied / "study" / "trials").glob("*.json"))[:2]
    shutil.copy(first, second)
    run(copied)
    assert results_of(copied / "study") == expected


def test_one_flip_in_every_kind_of_file_changes_no_result(copied, expected):
    rng = random.Random(0)
    for kind in [kind for kind in KINDS if kind != "plan.json"]:
        flip(file_of(copied / "study", kind), rng)
    for kind in CACHE_KINDS:
        flip(file_of(copied / "cache", kind), rng)
    run(copied)
    assert results_of(copied / "study") == expected


@pytest.mark.nightly
@pytest.mark.parametrize("kind", [*KINDS, *CACHE_KINDS])
def test_ten_flips_in_a_kind_of_file_change_no_result(copied, expected, kind):
    rng = random.Random(kind)
    for _ in range(10):
        flip(file_of(copied / ("cache" if kind in CACHE_KINDS else "study"), kind), rng)
        if kind in CACHE_KINDS:  # finished trials read no cache
            shutil.rmtree(copied / "study")
        run(copied)
        assert results_of(copied / "study") == expected


@pytest.mark.parametrize("kind", ["trials/*.json", "plan.json", "study.json"])
@pytest.mark.parametrize("command", ["results", "report", "soup"])
def test_commands_name_a_damaged_record(copied, capsys, monkeypatch, kind, command):
    monkeypatch.setattr("jaxft.report.write_report", lambda workdir: "report.html")
    path = file_of(copied / "study", kind)
    path.write_text("{}")
    assert main([command, str(copied / "study")]) == 2
    error = capsys.readouterr().err
    assert f"{str(path)!r} is damaged or missing; run the command of the study again" in error, error
    assert path.is_file() and not list((copied / "study").rglob("*.damaged"))


def test_missing_weights_are_reported(copied):
    workdir = copied / "study"
    path = file_of(workdir, "weights/*.safetensors")
    path.unlink()
    soups = jaxft.make_soups(workdir, num_alphas=2, quiet=True)
    assert soups.skipped[0].startswith(
        f"the soups and lines leave out 1 finished trial without stored weights ({path.stem})"
    )


def test_damaged_weights_stop_soup_and_predict(copied, capsys):
    path = file_of(copied / "study", "weights/*.safetensors")
    flip(path, random.Random(1))
    with pytest.raises(UserError, match=f"{path.name}.*damaged"):
        jaxft.make_soups(copied / "study", num_alphas=2, quiet=True)
    assert main(["predict", str(copied / "images" / "cat"), "--weights", str(path)]) == 2
    assert path.name in capsys.readouterr().err


def test_missing_weights_run_again_only_if_all_are_kept(copied, expected):
    path = file_of(copied / "study", "weights/*.safetensors")
    path.unlink()
    run(copied, execution={"executor": "sequential", "keep_weights": "best_seed"})
    assert not path.exists()
    run(copied)
    assert path.is_file() and results_of(copied / "study") == expected


def test_other_json_files_in_a_work_directory_are_kept(copied):
    (copied / "study" / "notes.json").write_text("mine")
    run(copied)
    assert (copied / "study" / "notes.json").read_text() == "mine"


def test_a_sealed_record_is_whole_under_its_own_name_only():
    content = seal("trials/a.json", {"x": (1, 2.5), "10": None}, "ab")
    assert unseal("trials/a.json", content) == ({"x": [1, 2.5], "10": None}, "ab")
    assert unseal("trials/a.json", json.dumps(json.loads(content)).encode()) is not None  # another layout
    assert unseal("trials/b.json", content) is None
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        assert unseal("trials/a.json", bytes(flipped)) in (None, ({"x": [1, 2.5], "10": None}, "ab"))
    deep = b"[" * 100_000
    assert unseal("trials/a.json", deep) is None and unseal("trials/a.json", b"1" * 10_000) is None


def test_files_of_another_program_are_refused(tmp_path):
    (tmp_path / "study.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="is not a file of jaxft"):
        Store.create(tmp_path)
    assert Path(tmp_path / "study.json").read_text() == '{"format": "other"}'


# --- checkpoints ---


def stop_after_a_checkpoint(folder, monkeypatch, fields):
    """Runs the study until it has saved a checkpoint; then it gets SIGTERM, as far as it knows."""
    whole = StoredCheckpoints.save

    def save(self, number, tree):
        whole(self, number, tree)
        interrupts._requested.set()

    with monkeypatch.context() as patch:
        patch.setattr(StoredCheckpoints, "save", save)
        with pytest.raises(interrupts.Stopped):
            run(folder, **fields)
    interrupts._requested.clear()


@pytest.mark.slow
def test_a_damaged_checkpoint_starts_its_trial_again(tmp_path, monkeypatch):
    fields = {"seeds": 1, "factors": [], "execution": {"executor": "sequential", "checkpoint_seconds": 0.0}}
    fields["training"] = study_of()["training"] | {"initialization.start": "random", "schedule.epochs": 6.0}
    for name in ("whole", "damaged"):
        draw_images(tmp_path / name / "images")
    run(tmp_path / "whole", **fields)
    stop_after_a_checkpoint(tmp_path / "damaged", monkeypatch, fields)
    (checkpoint,) = (tmp_path / "damaged" / "study" / "checkpoints").glob("*/*")
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-5])
    run(tmp_path / "damaged", **fields)
    warnings = warnings_of(tmp_path / "damaged" / "study")
    assert any(str(checkpoint.relative_to(tmp_path / "damaged")) in warning for warning in warnings), warnings
    assert results_of(tmp_path / "damaged" / "study") == results_of(tmp_path / "whole" / "study")


def test_a_stopped_trial_resumes_from_a_whole_checkpoint(tmp_path, monkeypatch):
    fields = {"seeds": 1, "factors": [], "execution": {"executor": "sequential", "checkpoint_seconds": 0.0}}
    fields["training"] = study_of()["training"] | {"initialization.start": "random"}
    draw_images(tmp_path / "images")
    stop_after_a_checkpoint(tmp_path, monkeypatch, fields)
    run(tmp_path, **fields)
    assert not [warning for warning in warnings_of(tmp_path / "study") if "checkpoint" in warning]
