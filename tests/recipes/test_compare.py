"""`jaxft compare`: weights of a known network, of an unknown one, of a trial; predictions; the page; bad input."""

import shutil

import numpy as np
import pandas as pd
import pytest
from helpers import draw_variables
from PIL import Image
from safetensors.numpy import save_file

import jaxft
from jaxft.cli import main
from jaxft.models import create_model
from jaxft.weights import save_weights


def toy(folder, name, num_classes=3, **scaled):
    """Writes a toy network, with kernels multiplied by the factors in `scaled`, and returns its path."""
    model = create_model("toy", num_classes=num_classes)
    variables = draw_variables(model, 8)
    for layer, factor in scaled.items():
        variables["params"][layer]["kernel"] = variables["params"][layer]["kernel"] * factor
    path = folder / f"{name}.safetensors"
    save_weights(path, model, variables)
    return path


def value(comparison, level, name, measure, network=None):
    rows = comparison.changes.query("level == @level and name == @name and measure == @measure")
    rows = rows if network is None else rows[rows["network"] == network]
    assert len(rows) == 1
    return rows["value"].item()


def test_a_scaled_kernel_has_its_relative_change(tmp_path):
    start, half = toy(tmp_path, "start"), toy(tmp_path, "half", head=0.5)
    comparison = jaxft.compare(start, half)
    assert value(comparison, "leaf", "head/kernel", "relative_l2") == pytest.approx(0.5, rel=1e-6)
    assert value(comparison, "leaf", "head/kernel", "cosine") == pytest.approx(1, rel=1e-6)
    changed = comparison.changes.query("level == 'leaf' and measure == 'l2' and value > 0")["name"].tolist()
    assert changed == ["head/kernel"]
    assert value(comparison, "total", "total", "l2") == value(comparison, "layer", "head", "l2")
    assert set(comparison.filters["leaf"]) >= {"head/kernel"} and comparison.filters["leaf"][0] == "head/kernel"


def test_the_same_weights_do_not_differ(tmp_path):
    start = toy(tmp_path, "start")
    comparison = jaxft.compare(start, start)
    assert (comparison.changes.query("measure == 'l2'")["value"] == 0).all()
    assert comparison.labels == (f"{start} (1)", f"{start} (2)")


def test_layers_are_in_the_order_of_the_forward_pass(tmp_path):
    comparison = jaxft.compare(toy(tmp_path, "a"), toy(tmp_path, "b", head=2.0))
    layers = comparison.changes.query("level == 'layer' and measure == 'l2'")["name"].tolist()
    assert layers[0] != "head" and layers[-1] == "head"


def test_opposite_changes_have_the_cosine_minus_one(tmp_path):
    paths = [toy(tmp_path, "start"), toy(tmp_path, "more", head=1.5), toy(tmp_path, "less", head=0.5)]
    pairs = jaxft.compare(*paths).pairs.query("name == 'total'").set_index("measure")["value"]
    assert pairs["change_cosine"] == pytest.approx(-1, abs=1e-5)
    kernel = draw_variables(create_model("toy", num_classes=3), 8)["params"]["head"]["kernel"]
    assert pairs["distance"] == pytest.approx(np.linalg.norm(kernel), rel=1e-5)


def test_a_head_of_other_classes_is_left_out_with_a_note(tmp_path):
    comparison = jaxft.compare(toy(tmp_path, "three"), toy(tmp_path, "four", num_classes=4))
    assert "left out: 2 arrays of different shapes (head/kernel, head/bias)." in comparison.notes
    assert not comparison.changes["name"].str.startswith("head").any()


def test_networks_of_different_families_are_refused(tmp_path):
    model = create_model("toy_lite", num_classes=3)
    save_weights(tmp_path / "lite.safetensors", model, draw_variables(model, 8))
    with pytest.raises(jaxft.UserError, match=r"is a toy, but .* is a toy_lite; compare weights of one network"):
        jaxft.compare(toy(tmp_path, "start"), tmp_path / "lite.safetensors")


# --- networks that jaxft does not know ---

RNG = np.random.default_rng(0)
UNKNOWN = {
    "features.0.weight": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "features.1.weight": np.ones(4, np.float32),
    "features.1.bias": np.zeros(4, np.float32),
    "features.1.running_mean": np.zeros(4, np.float32),
    "features.1.running_var": np.ones(4, np.float32),
    "features.1.num_batches_tracked": np.array(7),
    "fc.weight": RNG.normal(size=(2, 4)).astype(np.float32),
}


def test_tensors_of_an_unknown_network_are_compared_by_their_names(tmp_path):
    after = UNKNOWN | {
        "features.0.weight": UNKNOWN["features.0.weight"] * np.array([1, 1, 3, 1], np.float32)[:, None, None, None],
        "features.1.running_var": np.full(4, np.e, np.float32),
    }
    save_file(UNKNOWN, tmp_path / "a.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in after.items()}, tmp_path / "b.safetensors")
    comparison = jaxft.compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert comparison.model == "" and "compares tensors by their names" in comparison.notes[0]
    filters = np.linalg.norm(UNKNOWN["features.0.weight"].reshape(4, -1), axis=1)
    assert value(comparison, "layer", "features.0", "l2") == pytest.approx(2 * filters[2], rel=1e-5)
    assert comparison.filters.loc[0, ["leaf", "filter"]].tolist() == ["features.0.weight", 2]  # the first axis
    typical = np.sqrt((filters**2).mean())
    assert comparison.filters.loc[0, "value"] == pytest.approx(2 * filters[2] / typical, rel=1e-5)
    assert value(comparison, "batch_norm", "features.1", "log_variance") == pytest.approx(1, rel=1e-6)
    assert value(comparison, "batch_norm", "features.1", "mean") == 0
    assert value(comparison, "leaf", "features.0.weight", "stable_rank") == pytest.approx(1, rel=1e-5)


def test_checkpoints_of_pytorch_are_compared(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    with torch.no_grad():
        net[2].bias += 1
    torch.save(net.state_dict(), tmp_path / "b.pth")
    comparison = jaxft.compare(tmp_path / "a.pth", tmp_path / "b.pth")
    assert value(comparison, "total", "total", "l2") == pytest.approx(np.sqrt(2), rel=1e-6)


def test_files_without_common_tensors_are_refused(tmp_path):
    save_file(UNKNOWN, tmp_path / "a.safetensors")
    save_file({"other.weight": np.ones(3, np.float32), "x.bias": np.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(jaxft.UserError, match="have no tensors with the same name and shape"):
        jaxft.compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


# --- trials ---


def test_a_trial_of_a_study_is_named_by_its_folder_and_digest(tmp_path):
    workdir = tmp_path / "study"
    (workdir / "weights").mkdir(parents=True)
    (workdir / "study.json").write_text("{}")
    start = toy(tmp_path, "start")
    for name in ("ab12", "ab34", "cd56"):
        toy(workdir / "weights", name, head=2.0)
    assert jaxft.compare(start, f"{workdir}:cd").labels == ("start.safetensors", "study:cd")
    for location, reason in (
        (f"{workdir}:ab", "2 trials of .* begin with 'ab'"),
        (f"{workdir}:ff", "0 trials of .* begin with 'ff'"),
        (str(workdir), "is a study; name one of its trials with stored weights, such as .*:ab12"),
    ):
        with pytest.raises(jaxft.UserError, match=reason):
            jaxft.compare(start, location)


# --- predictions, the command and its page ---


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(6):
        path = folder / ("cat", "dog", "owl")[i % 3] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return folder


@pytest.fixture
def named(tmp_path):
    """Returns the paths of two networks with the classes cat, dog and owl."""
    names = ("cat", "dog", "owl")
    paths = []
    for i, factor in enumerate((1.0, -1.0)):
        network = jaxft.load(toy(tmp_path, f"plain{i}", head=factor), class_names=names)
        paths.append(tmp_path / f"net{i}.safetensors")
        network.save(paths[-1])
    return paths


def test_predictions_are_compared_with_the_reference(named, pictures):
    comparison = jaxft.compare(*named, named[0], data=pictures)
    predictions = comparison.predictions
    assert len(predictions) == 6 and predictions["truth"].value_counts().to_dict() == {"cat": 2, "dog": 2, "owl": 2}
    assert (predictions["class_0"] == predictions["class_2"]).all()
    assert (predictions["class_0"] != predictions["class_1"]).any()
    rows = comparison.agreement.set_index("network")
    assert rows["same"].iloc[[0, 2]].tolist() == [1, 1]
    assert rows["same"].iloc[1] == (predictions["class_0"] == predictions["class_1"]).mean()
    assert rows["accuracy"].iloc[1] == (predictions["class_1"] == predictions["truth"]).mean()


def test_the_command_writes_a_page_and_tables(named, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["compare", *map(str, named), "--data", str(pictures), "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "error consistency" in printed and "report.html" in printed
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 4 and "Filters that changed most" in page
    changes = pd.read_csv(out / "changes.csv")
    assert set(changes["level"]) >= {"total", "layer", "leaf"} and len(pd.read_csv(out / "predictions.csv")) == 6
    assert main(words) == 2 and "--force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


def test_networks_with_other_classes_have_activations_but_no_predictions(named, pictures, tmp_path, capsys):
    other, out = toy(tmp_path, "four", num_classes=4), tmp_path / "out"
    assert main(["compare", str(named[0]), str(other), "--data", str(pictures), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "the networks have different classes (net0.safetensors: 3, such as 'cat'; " in captured.err
    assert "error consistency" not in captured.out and "same top images" in captured.out
    assert not (out / "predictions.csv").exists()
    page = (out / "report.html").read_text()
    assert 'id="saliency"' in page and 'id="predictions"' not in page


def test_activations_of_the_same_backbone_do_not_differ(named, pictures):
    activations = jaxft.compare(*named, data=pictures).activations  # only the heads differ
    assert activations.num_images == 6
    taps = [tap.name for tap in jaxft.create_model("toy", 3).taps]
    similarity = activations.similarity.set_index(["reference_tap", "tap"])["value"]
    np.testing.assert_allclose([similarity[tap, tap] for tap in taps], 1, rtol=1e-5)
    units = activations.units.pivot(index="tap", columns="measure", values="value").loc[taps]
    assert list(dict.fromkeys(activations.units["tap"])) == taps
    np.testing.assert_allclose(units["correlation"], 1)
    assert (units["top_jaccard"] == 1).all() and (units["sparsity"] == units["sparsity_before"]).all()
    for unit in activations.changed_units:
        assert len(unit.before) == len(unit.after) > 0
        assert all(np.array_equal(a, b) for a, b in zip(unit.before, unit.after))
    (embedding,) = activations.embeddings.values()
    np.testing.assert_allclose(embedding.before, embedding.after, atol=1e-6)
    assert sorted(activations.image_classes) == ["cat", "cat", "dog", "dog", "owl", "owl"]


def test_saliency_is_of_the_predicted_class(named, pictures):
    comparison = jaxft.compare(*named, data=pictures)
    assert len(comparison.activations.pictures) == 8  # of four images and two networks
    for picture in comparison.activations.pictures:
        number = comparison.labels.index(picture.network)
        row = comparison.predictions.set_index("file").loc[picture.file]
        assert picture.predicted == row[f"class_{number}"]
        assert list(picture.maps) == ["gradient", "guided backpropagation", "Grad-CAM"]
        for values in picture.maps.values():
            assert values.shape == picture.image.shape[:2] and values.min() >= 0
            assert values.max() == 0 or values.max() == pytest.approx(1)


def test_unreadable_images_are_left_out_of_the_activations(named, pictures, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(pictures, folder)
    (folder / "cat" / "0.png").write_bytes(b"no picture")
    comparison = jaxft.compare(*named, data=folder)
    assert comparison.activations.num_images == 5 and "cannot be read" in comparison.notes[-1]
    assert all("0.png" not in picture.file for picture in comparison.activations.pictures)


def test_an_unknown_network_has_no_predictions(pictures, tmp_path, capsys):
    save_file(UNKNOWN, tmp_path / "a.safetensors")
    words = ["compare", *[str(tmp_path / "a.safetensors")] * 2, "--data", str(pictures)]
    assert main(words) == 2
    assert "jaxft does not know the network of these files" in capsys.readouterr().err


def test_a_missing_or_damaged_file_is_one_sentence(named, tmp_path, capsys):
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 100)
    for path in (tmp_path / "none.safetensors", tmp_path / "bad.safetensors"):
        assert main(["compare", str(named[0]), str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("jaxft: ") and path.name in error and len(error.splitlines()) == 1
