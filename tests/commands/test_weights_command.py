"""`jaxft weights`: describes, checks and converts weight files."""

import argparse
import itertools
import pickle
import zipfile

import numpy as np
import pytest
from helpers import draw_variables
from safetensors.numpy import load_file, save_file

from jaxft.cli import main
from jaxft.models import create_model
from jaxft.weights import Manifest, save_weights
from jaxft.weights.formats.torch.reading import read_torch_file
from jaxft.weights.formats.torch.writing import write_torch_file


@pytest.fixture(scope="module")
def network():
    """Returns a network of four classes and its variables."""
    model = create_model("resnetsmall8", num_classes=4)
    return model, draw_variables(model, 32)


@pytest.fixture
def saved(network, tmp_path):
    """Returns a weight file whose name does not contain a network."""
    model, variables = network
    manifest = Manifest("own", "", model.architecture, model.preprocessing, ("a", "b", "c", "d"), "made by hand")
    save_weights(tmp_path / "own.safetensors", model, variables, manifest)
    return tmp_path / "own.safetensors"


@pytest.fixture
def weights(capsys):
    """Returns a function that runs `jaxft weights` and returns the exit code, the output and the errors."""

    def run(*words):
        code = main(["weights", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def lines_of(out):
    """Returns whether each printed check passed, by name."""
    return {line.split()[1]: line.split()[0] == "ok" for line in out.splitlines()}


def change(saved, path, **tensors):
    """Writes the tensors of a file with some of them changed, and without its record."""
    save_file(load_file(saved) | tensors, path)
    return path


def test_inspect_finds_the_network_in_the_record(saved, weights):
    code, out, _ = weights("inspect", saved)
    assert code == 0
    for text in (
        "format         safetensors, torch layout",
        "integrity      its tensors match the sha256 in its metadata",
        "model          resnetsmall8: every tensor fits",
        "tensors        52, 88,580 values, float32 (52)",
        "origin         made by hand",
        "classes        4: a, b, c, d",
        "preprocessing  32 px, rgb, 0..1, mean (0.4914, 0.4822, 0.4465), std (0.2023, 0.1994, 0.201)\n",
    ):
        assert text in out


def test_inspect_finds_the_network_in_the_name(saved, weights, tmp_path):
    write_torch_file(tmp_path / "resnetsmall8.mine.pth.tar", load_file(saved))
    code, out, _ = weights("inspect", tmp_path / "resnetsmall8.mine.pth.tar", "--tensors")
    assert code == 0
    assert "format         torch, torch layout" in out and "(assumed, because the file does not record it)" in out
    assert "integrity      the CRC-32 checksums of its entries match" in out
    assert out.splitlines()[-1].split() == ["linear.weight", "float32", "[4,", "256]"]


def test_inspect_finds_the_network_by_its_sha256(real_data, weights, tmp_path):
    content = (real_data / "weights" / "resnetsmall8.cifar100.safetensors").read_bytes()
    (tmp_path / "renamed.bin").write_bytes(content)
    code, out, _ = weights("inspect", tmp_path / "renamed.bin")
    assert code == 0
    assert "model          resnetsmall8: every tensor fits" in out and "classes        100: apple," in out
    assert "integrity      its sha256 matches the published file" in out


def test_a_file_without_a_network_name_needs_model(saved, weights, tmp_path):
    path = change(saved, tmp_path / "what.safetensors")
    code, out, _ = weights("inspect", path)
    assert code == 0 and "does not say which network it is for; name the network with --model." in out
    assert "model          resnetsmall8: every tensor fits" in weights("inspect", path, "--model", "resnetsmall8")[1]
    code, out, _ = weights("inspect", path, "--model", "resnetsmall14")
    assert (
        code == 0 and "model          none: what.safetensors does not fit resnetsmall14: 30 tensors are missing" in out
    )


@pytest.mark.parametrize("name", ["what.safetensors", "resnetsmall8.safetensors"])
def test_inspect_lists_the_tensors_of_a_file_that_fits_no_network(name, weights, tmp_path):
    save_file({"a.weight": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.int64)}, tmp_path / name)
    code, out, err = weights("inspect", tmp_path / name, "--tensors")
    assert code == 0 and not err
    assert "model          none: " in out and "tensors        2, 7 values, float32 (1), int64 (1)" in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["a.weight", "float32", "[2,", "3]"],
        ["b", "int64", "[1]"],
    ]
    code, out, _ = weights("verify", tmp_path / name)
    assert code == 3 and lines_of(out) == {"integrity": True, "tensors": False}


def test_inspect_lists_all_state_dicts_of_a_file_that_fits_no_network(weights, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model": {"a": torch.zeros(2)}, "other": {"b": torch.zeros(3)}}, tmp_path / "what.pth")
    code, out, _ = weights("inspect", tmp_path / "what.pth", "--tensors")
    assert code == 0
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["model:", "a", "float32", "[2]"],
        ["other:", "b", "float32", "[3]"],
    ]


def test_the_commands_report_prefixes_and_state_dicts(saved, weights, tmp_path):
    torch = pytest.importorskip("torch")
    plain = {f"module.{name}": torch.from_numpy(tensor) for name, tensor in load_file(saved).items()}
    averaged = {name: tensor + 1 for name, tensor in plain.items()}
    path = tmp_path / "resnetsmall8.pth"
    torch.save({"state_dict": plain, "state_dict_ema": averaged, "args": argparse.Namespace(lr=0.1)}, path)
    prefix = "the tensor names of resnetsmall8.pth have the prefix 'module.', which jaxft removed."
    chosen = "resnetsmall8.pth has several state dicts: jaxft takes 'state_dict', not 'state_dict_ema'; --state-dict"
    code, out, err = weights("inspect", path)
    assert code == 0 and not err and f"note           {prefix}" in out and f"note           {chosen}" in out
    code, out, err = weights("verify", path)
    assert code == 0 and f"warning: {prefix}" in err and f"warning: {chosen}" in err
    code, out, err = weights("convert", path, tmp_path / "plain.safetensors")
    assert code == 0 and f"warning: {prefix}" in err and f"warning: {chosen}" in err
    code, out, err = weights("convert", path, tmp_path / "ema.safetensors", "--state-dict", "state_dict_ema")
    assert code == 0 and f"warning: {prefix}" in err and chosen not in err
    before, plain, averaged = (
        load_file(file) for file in (saved, *(tmp_path / f"{n}.safetensors" for n in ("plain", "ema")))
    )
    assert before.keys() == plain.keys() == averaged.keys()
    for name in before:
        np.testing.assert_array_equal(plain[name], before[name])
        np.testing.assert_array_equal(averaged[name], before[name] + 1)
    assert weights("verify", path, "--state-dict", "swa")[0] == 3


def test_verify_prints_all_checks_of_an_intact_file(saved, weights):
    code, out, _ = weights("verify", saved)
    assert code == 0
    assert lines_of(out) == dict.fromkeys(["integrity", "tensors", "numbers", "variances", "forward"], True)
    assert "all 52 fit resnetsmall8, 4 classes" in out and "all valid in 10 batch norms" in out


def test_verify_of_a_file_without_a_classifier(saved, weights, tmp_path):
    tensors = {name: tensor for name, tensor in load_file(saved).items() if not name.startswith("linear.")}
    save_file(tensors, tmp_path / "resnetsmall8.headless.safetensors")
    code, out, _ = weights("verify", tmp_path / "resnetsmall8.headless.safetensors")
    assert code == 0 and "all 50 fit resnetsmall8, no classifier" in out and "the features for an image of noise" in out


@pytest.mark.parametrize(
    ("tensors", "failed"),
    [
        ({"bn1.running_var": np.full(64, -1e-9, np.float32)}, {"variances"}),
        ({"bn1.running_var": np.zeros(64, np.float32)}, {"variances"}),
        ({"linear.bias": np.full(4, np.nan, np.float32)}, {"numbers", "forward"}),
        ({"linear.weight": np.full((4, 256), 3e38, np.float32)}, {"forward"}),
    ],
    ids=["variance", "zero variance", "nan", "overflow"],
)
def test_verify_fails_the_right_checks(tensors, failed, saved, weights, tmp_path):
    code, out, _ = weights("verify", change(saved, tmp_path / "resnetsmall8.safetensors", **tensors))
    assert code == 1
    assert {name for name, passed in lines_of(out).items() if not passed} == failed


@pytest.mark.parametrize("name", ["linear.bias", "fc.bias"])
def test_verify_of_an_intact_file_that_does_not_fit_has_its_own_exit_code(name, saved, weights, tmp_path):
    path = change(saved, tmp_path / "resnetsmall8.safetensors", **{name: np.zeros(5, np.float32)})
    code, out, _ = weights("verify", path)
    assert code == 3 and lines_of(out) == {"integrity": True, "tensors": False}


def test_verify_finds_damage(saved, weights):
    content = bytearray(saved.read_bytes())
    content[-100] ^= 1
    saved.write_bytes(content)
    code, out, _ = weights("verify", saved)
    assert code == 1 and out.startswith("FAILED  integrity") and "its tensors do not match the sha256" in out


@pytest.mark.slow
def test_verify_compares_with_a_reference(network, saved, weights, tmp_path):
    model, variables = network
    images = np.random.default_rng(1).normal(size=(18, 32, 32, 3)).astype(np.float32)
    logits = np.array(model.apply(variables, images))
    np.savez(tmp_path / "same.npz", images=images, logits=logits)
    code, out, _ = weights("verify", saved, "--reference", tmp_path / "same.npz")
    assert code == 0 and lines_of(out)["reference"] and "over 18 images; at most 1e-04 is allowed" in out
    logits[7, 2] += 2e-4 * np.abs(logits).max()
    np.savez(tmp_path / "other.npz", images=images, logits=logits)
    code, out, _ = weights("verify", saved, "--reference", tmp_path / "other.npz")
    assert code == 1 and lines_of(out)["forward"] and not lines_of(out)["reference"] and "= 2.0e-04 over" in out
    np.savez(tmp_path / "more.npz", images=images, logits=np.ones((18, 10)))
    code, out, _ = weights("verify", saved, "--reference", tmp_path / "more.npz")
    assert code == 1 and "the logits are [18, 4], but the reference has [18, 10]" in out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps([1])])
def test_a_file_without_reference_arrays_is_refused(content, saved, weights, tmp_path):
    (tmp_path / "bad.npz").write_bytes(content)
    code, _, err = weights("verify", saved, "--reference", tmp_path / "bad.npz")
    assert code == 2 and "is not an .npz file with 'images' and 'logits'." in err


def test_a_reference_with_wrong_shapes_is_refused(saved, weights, tmp_path):
    np.savez(tmp_path / "bad.npz", images=np.zeros((2, 3, 32, 32)), logits=np.zeros((2, 4)))
    code, _, err = weights("verify", saved, "--reference", tmp_path / "bad.npz")
    assert code == 2 and "images [2, 3, 32, 32] and logits [2, 4]; they must be [n, height, width, 3]" in err


def test_converted_tensors_are_bit_identical(saved, weights, tmp_path):
    chain = [saved, tmp_path / "a.pth", tmp_path / "b.msgpack", tmp_path / "c.safetensors"]
    for one, other in itertools.pairwise(chain):
        code, out, _ = weights("convert", one, other)
        assert code == 0 and f"wrote {other}: " in out and "52 tensors, float32 (52), for resnetsmall8" in out
    before, pth, after = load_file(saved), read_torch_file(chain[1]), load_file(chain[-1])
    assert before.keys() == after.keys() == pth.keys()
    assert all(before[name].tobytes() == after[name].tobytes() == pth[name].tobytes() for name in before)
    code, out, _ = weights("inspect", chain[-1])
    assert "classes        4: a, b, c, d" in out and "origin         made by hand" in out


def test_convert_overwrites_only_with_force(saved, weights, tmp_path):
    out = tmp_path / "out.pth"
    out.write_bytes(b"mine")
    code, _, err = weights("convert", saved, out)
    assert (
        code == 2
        and f"the file {str(out)!r} exists; name another one, or replace it with --force." in err
        and out.read_bytes() == b"mine"
    )
    assert weights("convert", saved, out, "--force")[0] == 0 and zipfile.is_zipfile(out)
    assert weights("convert", out, out, "--force")[0] == 0 and zipfile.is_zipfile(out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert"], "the output file is missing"),
        (
            ["convert", "out.onnx"],
            "a format that jaxft can write; its name must end in .safetensors, .safetensors.index.json, .npz, ",
        ),
        (["convert", "no/such/out.pth"], "there is no folder"),
        (["inspect", "out.pth"], "'out.pth' belongs to `jaxft weights convert`, not to `jaxft weights inspect`."),
        (["inspect", "--force"], "--force belongs to `jaxft weights convert`"),
        (["verify", "--tensors"], "--tensors belongs to `jaxft weights inspect`"),
        (["convert", "--reference", "x.npz"], "--reference belongs to `jaxft weights verify`"),
        (["verify", "--reference", "x.npz"], "the reference 'x.npz' cannot be read: the file does not exist."),
        (["verify", "--model", "resnet9"], "there is no model 'resnet9'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_invalid_request_is_reported_in_one_sentence(words, message, saved, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    action, *rest = words
    code, out, err = weights(action, saved, *rest)
    assert code == 2 and message in err and not out and len(err.splitlines()) == 1


@pytest.mark.parametrize("action", ["inspect", "verify"])
def test_a_hostile_file_runs_no_code(action, weights, tmp_path):
    mark = tmp_path / "mark"
    hostile = pickle.GLOBAL + b"os\nmkdir\n" + pickle.dumps((str(mark),), 2)[2:-1] + pickle.REDUCE + pickle.STOP
    with zipfile.ZipFile(tmp_path / "resnetsmall8.pth", "w") as archive:
        archive.writestr("archive/data.pkl", hostile)
    code, out, err = weights(action, tmp_path / "resnetsmall8.pth")
    assert code == (2 if action == "inspect" else 1) and "refers to os.mkdir, which is code" in out + err
    assert not mark.exists()
