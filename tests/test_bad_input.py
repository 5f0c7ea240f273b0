"""What a user may get wrong: each is exit code 2 and one sentence that names it, and nothing on disk changes."""

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxft
from jaxft.cli import main
from jaxft.store.records import Store

CONFIG = '''"""A study that is as small as can be."""


def get_config(arg=""):
    return {
        "seeds": 1,
        "target": {"size_px": 8, "train_per_class": 5, "val_per_class": 2},
        "training": {"initialization": {"start": "random"}, "schedule": {"epochs": 1.0}},
    }
'''


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """Returns the path of the config file of a tiny study."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


def make_old_study(folder):
    """Returns a work directory with a record in it."""
    store = Store.create(folder / "old")
    store.write("trials", "0" * 16, {"status": "done"}, {"a": np.zeros(3)})
    return store.workdir


@pytest.fixture
def old_study(tmp_path):
    return make_old_study(tmp_path)


def snapshot(folder):
    """Returns every file and folder below `folder` with its content."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refused(config, old_study, tmp_path, capsys, monkeypatch):
    """Returns a function that runs a study, asserts that it is refused as it should, and returns the sentence."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of config files

    def run(*words, config=config, workdirs=(tmp_path / "new", old_study), names=()):
        before = snapshot(tmp_path)
        for workdir in workdirs:
            code = main(["study", "--config", config, "--workdir", str(workdir), *map(str, words)])
            out, err = capsys.readouterr()
            assert code == 2, err
            assert out == "" and len(err.splitlines()) == 1, err
            assert err.startswith("jaxft: ") and err.endswith(".\n")
            assert [name for name in names if str(name) not in err] == [], err
            assert snapshot(tmp_path) == before
        return err

    return run


# --- the config -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (
            ["--config.training.learning_rte=1"],
            ["'training.learning_rte'", "did you mean 'training.optimizer.learning_rate'"],
        ),
        (["--config.trainin.schedule.epochs=1"], ["'trainin'", "did you mean 'training'"]),
        (["--config.training.schedule.epochs=many"], ["'training.schedule.epochs' is 'many'", "a number at least 0"]),
        (["--config.training.batches.size=2.5"], ["'training.batches.size' is 2.5", "an integer at least 1"]),
        (["--config.training.batches.size", "0"], ["'training.batches.size' is 0"]),
        (["--config.training.optimizer.name=adamx"], ["'adamx'", "'sgd' or 'adam' or", "did you mean 'adam'"]),
        (["--config.seeds=0"], ["'seeds' is 0"]),
        (["--config.execution.executor=worker"], ["'execution.executor' is 'worker'", "did you mean 'workers'"]),
        (["--shard=4/4"], ["--shard is '4/4'", "from 0 to n - 1"]),
        (["--shard=a"], ["--shard is 'a'", "i/n"]),
        (["--config.training.layers.rates=[('haed/.*', 1.0)]"], ["'haed/.*' matches no parameter", "'head/.*'"]),
        (["--config.training.layers.rates=[('head', 1.0)]"], ["'head' matches no parameter", "'head/.*'"]),
        (["--config.training.layers.rates=[('head/(', 1.0)]"], ["'head/('", "not a regular expression"]),
        (["--config.training.layers.rates=[('.*', 'frozen')]"], ["freeze all parameters"]),
        (["--config.source.model=cifar_resnet9"], ["'cifar_resnet9'", "6n + 2"]),
        (["--config.source.model=cifar_resent20"], ["'cifar_resent20'", "did you mean 'cifar_resnet20'"]),
        (
            ["--config.training.initialization.start=pretrained"],
            ["'training.initialization.start'", "'source.weights'"],
        ),
        (["--config.training.batches.size=51"], ["50 images", "51", "'training.batches.size'"]),
        (["--config.target.data=digit"], ["'digit'", "allowed: 'digits'"]),
        (["--config.target.classes=['1', 'x']"], ["no class 'x'", "its 10 classes are 0, 1, 2 and 7 more"]),
        (["--config.target.train_per_class=173"], ["'8' has 174 images", "'target' requests 175", "173 for training"]),
        (["--config.target.train_per_class=none"], ["'digits'", "none is left to test", "'target.train_per_class'"]),
        (["--config.source.model=resnetsmall8", "--config.target.size_px=8"], ["resnetsmall8", "8 px"]),
        (["--confg.seeds=1"], ["'--confg.seeds=1'", "did you mean"]),
        (["--config.seeds"], ["--config.seeds has no value"]),
        (["extra"], ["unknown argument 'extra'"]),
    ],
    ids=lambda value: value[0].removeprefix("--config.") if value[0].startswith(("--", "extra")) else "",
)
def test_a_wrong_setting(refused, words, names):
    refused(*words, names=names)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, ["config file", "does not exist"]),
        ("x = 1\n", ["does not define the function get_config"]),
        ("def get_config(:\n", ["SyntaxError"]),
        ("raise ValueError('no luck')\n", ["ValueError: no luck"]),
        ("def get_config(arg=''):\n    raise ValueError('no luck')\n", ["ValueError: no luck"]),
        ("def get_config(arg=''):\n    raise ValueError('no\\nluck')\n", ["ValueError: no"]),
        ("def get_config(arg=''):\n    return 3\n", ["not int"]),
    ],
    ids=["missing", "no_function", "syntax", "raises", "function_raises", "two_lines", "number"],
)
def test_a_wrong_config_file(refused, tmp_path, text, names):
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    refused(config=str(path), names=names if text is None or "return" in text else [path, *names])


# --- weight files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Returns a weight file for cifar_resnet8 that jaxft wrote."""
    import jax

    model = jaxft.create_model("cifar_resnet8", num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    draw = np.random.default_rng(0)
    # No value is negative, as variances are not.
    variables = jax.tree.map(lambda leaf: abs(draw.normal(size=leaf.shape)).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("weights") / "source.safetensors"
    jaxft.save_weights(path, model, variables)
    return path


def from_file(path):
    """Returns the overrides that start a study from a weight file."""
    return ["--config.training.initialization.start=pretrained", f"--config.source.weights={path}"]


def test_the_weight_file_itself_is_fine(weights):
    jaxft.load_weights(weights, jaxft.create_model("cifar_resnet8", num_classes=10))


def test_a_missing_weight_file(refused, tmp_path):
    path = tmp_path / "nowhere.safetensors"
    refused(*from_file(path), names=["there is no weight file", path])


@pytest.mark.parametrize("length", [0, 5, 2000, -1], ids=["empty", "in_length", "in_header", "last_byte"])
def test_a_truncated_weight_file(refused, weights, tmp_path, length):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(weights.read_bytes()[:length])
    refused(*from_file(path), names=[path, "truncated"])


PLACES = {
    "length": lambda content: 0,
    "record": lambda content: content.index(b'\\"preprocessing\\"') + 4,
    "preprocessing": lambda content: content.index(b"0.456") + 4,
    "name_of_a_tensor": lambda content: content.index(b"conv1.weight") + 2,
    "first_value": lambda content: 8 + struct.unpack("<Q", content[:8])[0],
    "last_value": lambda content: len(content) - 1,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_bit_in_a_file_of_our_own(refused, weights, tmp_path, place):
    content = bytearray(weights.read_bytes())
    content[PLACES[place](bytes(content))] ^= 1
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(content)
    refused(*from_file(path), names=[path])


@pytest.mark.parametrize("place", [100, -1])
def test_a_flipped_bit_in_a_published_file(refused, real_data, tmp_path, place):
    name = "resnetsmall8.cifar10.safetensors"
    content = bytearray((real_data / "weights" / name).read_bytes())
    content[place] ^= 1
    (tmp_path / name).write_bytes(content)
    words = [*from_file(tmp_path / name), "--config.source.model=resnetsmall8", "--config.target.size_px=32"]
    refused(*words, names=[tmp_path / name, "is damaged", "sha256"])


def change_tensors(weights, path, change):
    """Writes the tensors of a file to another, changed and without the record that we keep."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, path)
    return path


def rename(tensors):
    tensors["layer1.0.conv9.weight"] = tensors.pop("layer1.0.conv1.weight")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda t: t.pop("layer2.0.bn1.weight"), ["layer2.0.bn1.weight is missing"]),
        (lambda t: t.update({"layer1.7.conv1.weight": np.zeros(3)}), ["layer1.7.conv1.weight is left over"]),
        (rename, ["layer1.0.conv1.weight is missing", "layer1.0.conv9.weight is left over"]),
        (
            lambda t: t.update({"conv1.weight": t["conv1.weight"][:8].copy()}),
            ["conv1.weight", "[3, 3, 3, 8]", "[3, 3, 3, 16]"],
        ),
        (lambda t: t.update({"bn1.weight": np.zeros(())}), ["bn1.weight", "the shape []", "[16]"]),
    ],
    ids=["missing", "left_over", "renamed", "shape", "scalar"],
)
def test_a_weight_file_that_does_not_fit(refused, weights, tmp_path, change, names):
    path = change_tensors(weights, tmp_path / "other.safetensors", change)
    refused(*from_file(path), names=["other.safetensors", "does not fit cifar_resnet8", *names])


@pytest.mark.parametrize(
    ("model", "names"),
    [
        # three more blocks, each with 2 kernels and 2 x 4 leaves of batch norm
        ("cifar_resnet14", ["30 tensors are missing: layer1.1.bn1.bias, ", " and 27 more"]),
        # 3 shortcuts of 5 leaves are missing; 5 leaves of the stem and the first kernel have other shapes
        (
            "resnetsmall8",
            [
                "15 tensors are missing: ",
                " and 14 more; ",
                "layer1.0.conv1.weight gives params/stage1/block1/conv1/kernel the shape [3, 3, 16, 16]",
                "[3, 3, 64, 16]",
                "and 5 more with a wrong shape",
            ],
        ),
    ],
)
def test_weights_of_another_network(refused, weights, tmp_path, model, names):
    said = ["source.safetensors is for cifar_resnet8", f"not for {model}"]
    refused(*from_file(weights), f"--config.source.model={model}", names=said)
    silent = change_tensors(weights, tmp_path / "silent.safetensors", dict)
    refused(*from_file(silent), f"--config.source.model={model}", names=[f"does not fit {model}", *names])


# --- images -----------------------------------------------------------------------------------------------------


def picture(kind="png"):
    """Returns the bytes of a picture of noise."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def huge_png(side):
    """Returns a small PNG file that declares side x side black pixels of one bit."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + (side + 7) // 8) * side), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def pets(path, **bad):
    """Writes a folder of two classes with ten pictures each, and the bad ones beside them."""
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for i in range(10):
            (path / name / f"{i}.png").write_bytes(picture())
    for name, content in bad.items():
        (path / "cat" / name.replace("_", ".")).write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text_png", b"this is no picture"),
        ("nothing_png", b""),
        ("cut_png", picture()[:1500]),
        ("cut_jpg", picture("jpeg")[:600]),
        ("header_jpg", picture("jpeg")[:30]),
        ("large_png", huge_png(10_000)),
        ("huge_png", huge_png(20_000)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_picture_that_cannot_be_read(refused, tmp_path, name, content):
    data = pets(tmp_path / "pets", **{name: content})
    refused(f"--config.target.data={data}", names=[data, "1 unusable image", f"'cat/{name.replace('_', '.')}'"])


def test_a_folder_without_images(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(f"--config.target.data={tmp_path / 'empty'}", names=[tmp_path / "empty", "no images"])


def test_a_folder_of_one_class(refused, tmp_path):
    shutil.rmtree(pets(tmp_path / "pets") / "dog")
    refused(f"--config.target.data={tmp_path / 'pets'}", names=[tmp_path / "pets", "only one class", "'cat'"])


def test_more_images_asked_for_than_a_class_has(refused, tmp_path):
    data = pets(tmp_path / "pets")
    words = [f"--config.target.data={data}", "--config.target.train_per_class=9"]
    refused(*words, names=["class 'cat' has 10 images", "'target' requests 11", "(9 for training, 2 for validation)"])


def test_images_for_the_source_are_named_as_such(refused):
    words = ["--config.training.initialization.start=pretrained", "--config.source.images.train_per_class=500"]
    refused(*words, names=["class '0' has 178 images", "'source.images' requests 500"])


@pytest.mark.parametrize("kind", ["dtype", "labels", "pickled", "cut", "zero_bytes"])
def test_a_wrong_npz(refused, tmp_path, kind):
    path = tmp_path / "bad.npz"
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2
    arrays = {"images": images, "labels": labels}
    if kind == "dtype":
        arrays["images"] = images.astype(np.float64)
    elif kind == "labels":
        del arrays["labels"]
    elif kind == "pickled":
        arrays["images"] = np.array([{}] * 40)
    np.savez(path, **arrays)
    if kind in ("cut", "zero_bytes"):
        path.write_bytes(path.read_bytes()[: 0 if kind == "zero_bytes" else 2000])
    refused(f"--config.target.data={path}", names=[path, {"dtype": "float64", "labels": "'labels'"}.get(kind, "npz")])


# --- the work directory -----------------------------------------------------------------------------------------


def test_a_work_directory_that_holds_something_else(refused, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(picture())
    refused(workdirs=[tmp_path / "photos"], names=[tmp_path / "photos", "contains other files", "cat.png"])


@pytest.mark.parametrize("below", [False, True])
def test_a_work_directory_that_is_a_file(refused, tmp_path, below):
    (tmp_path / "thesis.pdf").write_bytes(b"years of work")
    refused(workdirs=[tmp_path / "thesis.pdf" / ("runs" if below else "")], names=[tmp_path / "thesis.pdf"])


@pytest.mark.parametrize("marker", [b"{}", b"", b"[1]", b'{"format": "jaxft study", "schema": 99}'])
def test_a_work_directory_of_another_program_or_version(refused, tmp_path, marker):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.json").write_bytes(marker)
    refused(workdirs=[tmp_path / "other"], names=[tmp_path / "other", "name another work directory"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_write_protected_work_directory(refused, tmp_path):
    (tmp_path / "protected").mkdir(mode=0o500)
    refused(workdirs=[tmp_path / "protected", tmp_path / "protected" / "new"], names=["cannot write to"])


@pytest.mark.parametrize("command", ["results", "report"])
def test_there_is_no_study_to_read(tmp_path, capsys, command):
    assert main([command, str(tmp_path / "nowhere")]) == 2
    assert (
        capsys.readouterr().err
        == f"jaxft: there is no study in '{tmp_path}/nowhere'; name the work directory of a `jaxft study`.\n"
    )


def test_debug_shows_the_traceback(config, tmp_path, capsys):
    words = ["study", "--config", config, "--workdir", str(tmp_path / "new"), "--config.seeds=0"]
    assert main(words) == 2
    sentence = capsys.readouterr().err
    assert main([*words, "--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):") and "in load_config" in err
    assert err.endswith(sentence)


# --- real processes and real disks ------------------------------------------------------------------------------


def study_words(config, workdir, *words):
    return ["study", "--config", config, "--workdir", str(workdir), *words]


# Runs studies on disks of its own: on each `main` once, and on those that are full once more with space.
DISKS = """
import contextlib, io, json, subprocess, sys
from pathlib import Path
from jaxft.cli import main

disk, old = sys.argv[1:3]

def run(words):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    return code, err.getvalue(), {str(p): p.read_bytes().hex() for p in Path(disk).rglob("*") if p.is_file()}

def mount(*options):
    subprocess.run(["mount", *options, disk], check=True)

found = {}
for name, size, words in json.loads(sys.argv[3]):
    if size is None:
        mount("-t", "tmpfs", "tmpfs")
        subprocess.run(["cp", "-r", old, f"{disk}/old"], check=True)
        mount("-o", "remount,ro")
        found[name] = [run(words)]
    else:
        mount("-t", "tmpfs", "-o", f"size={size}k", "tmpfs")
        first = run(words)
        mount("-o", "remount,size=50m")
        found[name] = first, run(words)
    subprocess.run(["umount", disk], check=True)
print(json.dumps(found))
"""
# What fills up is in turn: the marker, the plan, the weights (300 KB), the trial's record, the report.
SIZES_KIB = (4, 12, 200, 340, 400)


@pytest.fixture(scope="module")
def disks(tmp_path_factory, config):
    """Returns (the folder of the disks, what runs on each come to: code, stderr, files), from one process for all.

    Skips the test where mounting is not permitted.
    """
    folder = tmp_path_factory.mktemp("disks") / "disk"
    folder.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare` here")
    probe = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True)
    if probe.returncode:
        pytest.skip(f"mounting is not permitted here: {probe.stderr.decode().strip()}")
    old = make_old_study(folder.parent)
    cases = [(name, None, study_words(config, folder / name)) for name in ("old", "new")]
    cases += [(size, size, study_words(config, folder / "study")) for size in SIZES_KIB]
    cases += [("checkpoint", 800, study_words(config, folder / "study", "--config.execution.checkpoint_seconds=0"))]
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", DISKS, str(folder), str(old), json.dumps(cases)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["old", "new"])
def test_a_read_only_disk(disks, name):
    folder, found = disks
    ((code, err, _),) = found[name]
    assert err == f"jaxft: cannot write to '{folder}/{name}': read-only file system.\n"
    assert code == 2


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES_KIB)
def test_a_full_disk(disks, size):
    folder, found = disks
    (code, err, files), second = found[str(size)]
    last = err.splitlines()[-1]
    assert code == 2, err
    assert last.startswith("jaxft: no space is left on the device") and "Traceback" not in err
    assert err.count("jaxft: ") == 1
    assert not [name for name in files if ".tmp-" in name]
    assert second[0] == 0, second[1]
    kept = {name: content for name, content in files.items() if "/trials/" in name and name.endswith(".json")}
    assert kept.items() <= second[2].items()
    assert {f"{folder}/study/{name}" for name in ("report.html", "results.csv")} <= set(second[2])
    assert not [name for name in second[2] if "/failures/" in name]


@pytest.mark.slow
def test_a_disk_that_is_full_at_a_checkpoint(disks):
    first, second = disks[1]["checkpoint"]
    assert first[0] == 2, first[1]
    assert first[1].splitlines()[-1].startswith("jaxft: no space is left on the device")
    assert second[0] == 0, second[1]


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_an_interrupted_study_goes_on(config, tmp_path):
    workdir, seeds = tmp_path / "work", 12
    words = study_words(config, workdir, f"--config.seeds={seeds}", "--config.source.model=toy")
    code = (
        f"import signal, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import helpers;"
        "from jaxft.cli import main;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell's background jobs ignore the signal
        "sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not list(workdir.glob("trials/[!.]*.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "jaxft: interrupted. Finished work is saved; the same command resumes it."
    assert "Traceback" not in err
    done = snapshot(workdir / "trials")
    records = [path for path in done if path.suffix == ".json"]
    assert 1 <= len(records) < seeds
    assert main(words) == 0
    after = snapshot(workdir / "trials")
    assert len([path for path in after if path.suffix == ".json"]) == seeds
    assert all(after[path] == done[path] for path in records)
