"""Damaged weight files of every format: an error of one sentence, or tensors; no other exception, hang or bomb."""

import io
import random
import resource
import time
import zipfile
from collections import Counter

import numpy as np
import pytest
from test_torch_tar import tar

import jaxft
from jaxft.core import paths
from jaxft.weights import find_model, load_weights, save_weights
from jaxft.weights.formats import FORMATS
from jaxft.weights.formats.keras import WEIGHTS
from jaxft.weights.porting import to_tensors

FEW, MANY = 60, 10_000
SLOW = ("orbax", "orbax (files)")  # about 50 ms per file
MOST_SECONDS = 5.0  # per file
MOST_BYTES = 500_000_000
SUFFIXES = {
    "safetensors": ".safetensors",
    "sharded": ".safetensors.index.json",
    "npz": ".npz",
    "npz (compressed)": ".compressed.npz",
    "keras": ".h5",
    "keras 3": ".weights.h5",
    "keras archive": ".keras",
    "caffe": ".caffemodel",
    "msgpack": ".msgpack",
    "orbax": ".orbax",
    "orbax (files)": ".files.orbax",
    "torch": ".pth",
    "torch (tar)": ".tar",
}
NEEDS_H5PY = ("keras", "keras 3", "keras archive")


def compressed(path):
    """Compresses the entries of an archive."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def keras_archive(path, model, variables):
    inner = path.with_name("model.weights.h5")
    save_weights(inner, model, variables)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("metadata.json", "config.json"):
            archive.writestr(name, "{}")
        archive.write(inner, WEIGHTS)
    inner.unlink()


@pytest.fixture(scope="module")
def write(toy):
    """Returns a function that writes a file of a format to a folder, and returns its path and its network."""

    def write(kind, folder, monkeypatch):
        model, variables = toy
        path = folder / f"toy{SUFFIXES[kind]}"
        if kind in NEEDS_H5PY:
            pytest.importorskip("h5py")
        if kind == "keras archive":
            keras_archive(path, model, variables)
        elif kind == "torch (tar)":
            path.write_bytes(tar({name: np.ascontiguousarray(a) for name, a in to_tensors(model, variables).items()}))
        elif kind == "caffe":  # Caffe has no names for the toy network
            write_caffe(path, variables)
        elif kind == "orbax (files)":
            import orbax.checkpoint as ocp

            with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
                checkpointer.save(path, variables)
        else:
            monkeypatch.setattr("jaxft.weights.formats.safetensors_index.SHARD_BYTES", 3000)
            save_weights(path, model, variables)
        if kind == "npz (compressed)":
            compressed(path)
        return path

    return write


def write_caffe(path, variables):
    leaves = paths.flatten(variables["params"])
    tensors = {f"{name}.0": np.asarray(leaf) for name, leaf in leaves.items()}
    FORMATS["caffe"].value.write(path, tensors, {"a": "b"})


def damaged(content, rng):
    """Returns bytes with a few changes: other bytes, removed, repeated or inserted ones, or a cut-off end."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(changed)) if rng.random() < 0.6 else rng.randrange(min(len(changed), 400))
        match rng.randrange(8):
            case 0 | 1:
                changed[at] = rng.randrange(256)
            case 2:
                changed[at] ^= 1 << rng.randrange(8)
            case 3:
                size = rng.choice((1, 2, 4, 8))
                changed[at : at + size] = rng.choice((0, 1, 2**31 - 1, 2**63 - 1, 2**64 - 1)).to_bytes(8, "little")[
                    :size
                ]
            case 4:
                del changed[at : at + rng.choice((1, 4, 100))]
            case 5:
                changed[at:at] = changed[at : at + rng.choice((1, 8, 200))]
            case 6:
                changed[at:at] = rng.randbytes(rng.choice((1, 4)))
            case 7:
                digits = [i for i in range(at, min(at + 300, len(changed))) if 48 <= changed[i] < 58]
                if digits:
                    changed[digits[0] : digits[0] + 1] = rng.choice((b"9" * 9, b"-1", b"1e9", b"0", b"null"))
        changed = changed or bytearray(1)
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.05 else changed)


def rezipped(content, rng):
    """Returns an archive with one damaged entry, whose checksum fits."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = [(info, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(infos))
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for i, (info, entry) in enumerate(infos):
            archive.writestr(info.filename, damaged(entry, rng) if i == at else entry, info.compress_type)
    return result.getvalue()


def outcomes(path, model, seeds):
    """Returns the number of damaged files by outcome, and the longest time to read one, in seconds."""
    files = sorted(file for file in path.parent.rglob("*") if file.is_file())
    contents = {file: file.read_bytes() for file in files}
    counts, longest = Counter(), 0.0
    for seed in seeds:
        rng = random.Random(seed)
        file = rng.choice(files)
        is_zip = contents[file].startswith(b"PK") and rng.random() < 0.5
        file.write_bytes((rezipped if is_zip else damaged)(contents[file], rng))
        start = time.perf_counter()
        try:
            find_model(path)
            load_weights(path, model, check_values=False)
            counts["read"] += 1
        except jaxft.UserError as error:
            assert len(str(error).splitlines()) == 1, error
            assert len(str(error)) < 700, error
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        longest = max(longest, time.perf_counter() - start)
        file.write_bytes(contents[file])
    return counts, longest


def check(kind, write, toy, folder, monkeypatch, seeds):
    path = write(kind, folder, monkeypatch)
    if kind != "caffe":
        load_weights(path, toy[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts, longest = outcomes(path, toy[0], seeds)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(f"{kind}: {dict(counts)}, at most {longest:.2f} s and {grown / 1e6:.0f} MB more")
    assert counts["refused"] > len(seeds) // 4
    assert longest < MOST_SECONDS and grown < MOST_BYTES


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_damaged_file_is_an_error_or_tensors(kind, write, toy, tmp_path, monkeypatch):
    check(kind, write, toy, tmp_path, monkeypatch, range(FEW // 4 if kind in SLOW else FEW))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", SUFFIXES)
def test_ten_thousand_damaged_files_are_errors_or_tensors(kind, write, toy, tmp_path, monkeypatch):
    check(kind, write, toy, tmp_path, monkeypatch, range(FEW, FEW + MANY))
