"""`jaxft predict`: probabilities computed by hand, files, folders and archives, and unreadable images."""

import csv
import dataclasses
import io
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw_variables
from PIL import Image
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.cli import main
from jaxft.core import paths
from jaxft.core.metrics import METRICS, Metric
from jaxft.data.readers.pictures import decode
from jaxft.models import create_model
from jaxft.models.class_names import CLASS_NAMES, imagenet_classes
from jaxft.recipes.predict import class_folders, find_pictures, predict_members
from jaxft.weights import Manifest, save_weights

NAMES = ("oak tree", "ash", "elm")


def picture(seed, mode="RGB", size=(40, 36)):
    """Returns the bytes of a PNG of noise."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode=None).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def network():
    """Returns a network of three classes and its variables."""
    model = create_model("resnetsmall8", num_classes=3)
    return model, draw_variables(model, 32)


@pytest.fixture
def weights(network, tmp_path):
    """Returns the path of the network's weight file, which names its classes."""
    model, variables = network
    path = tmp_path / "trees.safetensors"
    save_weights(path, model, variables, Manifest(path.name, "", model.architecture, model.preprocessing, NAMES))
    return path


@pytest.fixture
def certain(network, tmp_path):
    """Returns a weight file whose head ignores its input: the probabilities are 0.1, 0.2 and 0.7 for all images."""
    model, variables = network
    flat = paths.flatten(variables)
    flat["params/head/kernel"] = np.zeros_like(flat["params/head/kernel"])
    flat["params/head/bias"] = np.log(np.array([0.1, 0.2, 0.7], np.float32))
    path = tmp_path / "certain.safetensors"
    manifest = Manifest(path.name, "", model.architecture, model.preprocessing, NAMES)
    save_weights(path, model, paths.unflatten(flat), manifest)
    return path


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of seven images: one oak, two ashes, three elms, and one of an unknown class."""
    files = ["Oak_Tree/1.png", "ash/1.png", "ash/2.png", "elm/1.png", "elm/2.png", "elm/3.png", "cars/1.png"]
    for i, name in enumerate(files):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_probabilities_by_hand(certain, folder):
    predictions = list(jaxft.predict(certain, folder, top=2))
    assert len(predictions) == 7
    for prediction in predictions:
        assert prediction.classes == ("elm", "ash")
        assert prediction.probabilities == pytest.approx((0.7, 0.2), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_predictions_do_not_depend_on_the_batch_size(network, weights, folder, batch_size):
    """The expected probabilities are a softmax of the logits of each image in a batch of one."""
    model, variables = network
    apply = jax.jit(model.apply)
    predictions = list(jaxft.predict(weights, [folder], batch_size=batch_size))
    assert [p.file for p in predictions] == sorted(str(path) for path in folder.rglob("*.png"))
    for prediction in predictions:
        pixels = decode(Path(prediction.file).read_bytes(), 32)
        logits = np.asarray(apply(variables, model.preprocessing.apply(jnp.asarray(pixels[None]))), np.float64)[0]
        expected = np.exp(logits) / np.exp(logits).sum()
        assert prediction.classes == tuple(NAMES[label] for label in np.argsort(-expected))
        np.testing.assert_allclose(prediction.probabilities, np.sort(expected)[::-1], rtol=1e-4)


@pytest.mark.slow
def test_a_network_trained_on_crops_uses_the_center_crop(network, weights, folder, tmp_path, capsys):
    model, variables = network
    whole = next(iter(jaxft.predict(weights, [folder / "elm/1.png"])))
    path = tmp_path / "parts.safetensors"
    manifest = Manifest(path.name, "", model.architecture, model.preprocessing, NAMES, resize_px=40)
    save_weights(path, model, variables, manifest)
    part = next(iter(jaxft.predict(path, [folder / "elm/1.png"])))
    pixels = decode((folder / "elm/1.png").read_bytes(), 40)[4:36, 4:36]
    logits = jax.jit(model.apply)(variables, model.preprocessing.apply(jnp.asarray(pixels[None])))
    assert part.probabilities == pytest.approx(np.sort(np.asarray(jax.nn.softmax(logits))[0])[::-1], rel=1e-4)
    assert part.probabilities != whole.probabilities
    assert main(["weights", "inspect", str(path)]) == 0
    assert "std (0.2023, 0.1994, 0.201) (center crop of images of 40 px)\n" in capsys.readouterr().out


def test_table_and_accuracy(certain, folder, capsys):
    assert main(["predict", "--weights", str(certain), "--top", "2", str(folder)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["image", "%", "class"]
    # In the order of names: capital letters first.
    assert lines[1].split() == [str(folder / "Oak_Tree" / "1.png"), "70.0", "elm"]
    assert lines[2].split() == ["20.0", "ash"]
    # All images are predicted as elm, then ash: top-1 is 3 of 6, top-2 is 5 of 6. Cars are not a class.
    assert lines[-1] == (
        "accuracy: 50.0% (3 of the 6 images whose folder is named after a class); top-2: 83.3%; "
        "mean over the classes: 33.3%"  # three elms, two ashes, an oak
    )
    assert len(lines) == 1 + 7 * 2 + 1 and captured.err == ""


def test_a_registered_metric_follows_the_accuracy(certain, folder, capsys, request):
    """All images are predicted as elm, so the mistakes are two ashes and an oak."""
    errors = Metric(lambda labels, predictions: np.sum(labels != predictions), title="mistakes", is_share=False)
    METRICS.register("errors", errors)
    request.addfinalizer(lambda: METRICS.entries.pop("errors"))
    assert main(["predict", "--weights", str(certain), "--top", "1", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("; mean over the classes: 33.3%; mistakes: 3")
    assert main(["predict", "--weights", str(certain), "--top", "1", str(folder / "ash")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("named after a class); mistakes: 2")


def test_csv_contains_all_predictions(certain, folder, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["predict", "--weights", str(certain), "--csv", str(out), str(folder), "--batch-size", "2"]) == 0
    rows = rows_of(out)
    assert len(rows) == 7 * 3
    assert [row["class"] for row in rows[:3]] == ["elm", "ash", "oak tree"]
    assert [row["rank"] for row in rows[:3]] == ["1", "2", "3"]
    assert [float(row["probability"]) for row in rows[:3]] == pytest.approx([0.7, 0.2, 0.1], abs=1e-6)
    assert {row["file"] for row in rows} == {str(path) for path in folder.rglob("*.png")}
    assert str(out) in capsys.readouterr().out


def test_predictions_for_a_zip_file_equal_those_for_its_folder(weights, folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*"), reverse=True):
            archive.write(path, path.relative_to(folder))
    zipped = list(jaxft.predict(weights, tmp_path / "pictures.zip"))
    plain = list(jaxft.predict(weights, folder))
    assert [p.probabilities for p in zipped] == [p.probabilities for p in plain]
    assert zipped[0].file == str(tmp_path / "pictures.zip" / "Oak_Tree" / "1.png") and zipped[0].truth == "oak tree"


def test_splits_have_separate_accuracies(certain, folder, capsys):
    for part, of in (("train", "elm"), ("test", "ash")):
        (folder / part).mkdir()
        (folder / of).rename(folder / part / of)
    assert main(["predict", "--weights", str(certain), "--top", "1", str(folder / "train"), str(folder / "test")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("accuracy in train: 100.0% (3 of the 3 ")
    assert lines[-1].startswith("accuracy in test: 0.0% (0 of the 2 ")


def test_an_unreadable_image_does_not_affect_other_predictions(weights, folder, capsys):
    good = {p.file: p for p in jaxft.predict(weights, folder)}
    cut, no_picture = folder / "ash" / "2.png", folder / "ash" / "3.png"
    cut.write_bytes(picture(2)[:-400])
    no_picture.write_bytes(b"no picture")
    assert main(["predict", "--weights", str(weights), str(folder)]) == 1
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert len(errors) == 2 and f"the image {str(cut)!r} cannot be read: " in errors[0]
    assert errors[1] == f"jaxft: the image {str(no_picture)!r} cannot be read: the image format is unknown."
    assert captured.out.splitlines()[-1] == "2 of 8 images cannot be read."
    for prediction in jaxft.predict(weights, folder):
        if not prediction.problem:
            assert prediction.probabilities == pytest.approx(good[prediction.file].probabilities, rel=1e-5)


def test_a_gray_image_has_the_predictions_of_its_rgb_copy(weights, tmp_path):
    (tmp_path / "gray.png").write_bytes(picture(5, "L"))
    with Image.open(tmp_path / "gray.png") as gray:
        assert gray.mode == "L"
        gray.convert("RGB").save(tmp_path / "color.png")
    one, two = jaxft.predict(weights, [tmp_path / "gray.png", tmp_path / "color.png"])
    assert one.probabilities == two.probabilities


def test_classes_without_names_are_numbered_with_a_note(network, certain, folder, tmp_path, capsys):
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(certain), bare)
    command = ["predict", "--weights", str(bare), "--model", "resnetsmall8", str(folder / "elm" / "1.png")]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert [line.split()[-1] for line in captured.out.splitlines()[1:]] == ["2", "1", "0"]
    assert "warning: bare.safetensors has no class names for 3 classes, so classes are numbered and no" in captured.err
    assert "jaxft assumes the default of resnetsmall8: 32 px, rgb, 0..1, mean (0.4914, 0.4822, 0.4465)" in captured.err


def test_the_numbers_of_classes_do_not_stand_for_folders(certain, tmp_path, capsys):
    """All images are predicted as class 2. Folders named '0' to '2' do not make this an accuracy; names do."""
    bare, labels = tmp_path / "resnetsmall8.bare.safetensors", tmp_path / "labels.txt"
    save_file(load_file(certain), bare)
    labels.write_text("0\n2\n1\n")
    for name in ("0", "1", "1b", "2"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "1.png").write_bytes(picture(0))
    command = ["predict", "--weights", str(bare), "--top", "1", str(tmp_path / "pictures")]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "accuracy" not in captured.out and "no accuracy is computed; name the classes with --labels" in captured.err
    assert main([*command, "--labels", str(labels)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("accuracy: 33.3% (1 of the 3 images")  # the folder '1'
    assert "class names" not in captured.err
    labels.write_text("ash\nelm\n")
    assert main([*command, "--labels", str(labels)]) == 2
    assert capsys.readouterr().err == (
        "jaxft: 2 class names are given, but resnetsmall8.bare.safetensors has 3 classes.\n"
    )


def test_names_of_other_classes_are_not_used(folder, network, tmp_path, capsys):
    """A file can have a new head and an old manifest."""
    model, variables = network
    other = tmp_path / "other.safetensors"
    manifest = Manifest(other.name, "", model.architecture, model.preprocessing, CLASS_NAMES["cifar10"])
    save_weights(other, model, variables, manifest)
    assert main(["predict", "--weights", str(other), str(folder / "elm" / "1.png")]) == 0
    captured = capsys.readouterr()
    assert {line.split()[-1] for line in captured.out.splitlines()[1:]} == {"0", "1", "2"}
    assert captured.err.startswith(
        "warning: other.safetensors has 10 class names for 3 classes, so classes are numbered"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jpg"], "there is no image, folder or archive 'nowhere.jpg'"),
        (["empty"], "'empty' contains no images"),
        (["empty.zip"], "'empty.zip' contains no images"),
        (["a.png", "--top", "0"], "top is 0; it must be 1 or more"),
        (["a.png", "--batch-size", "-1"], "batch_size is -1; it must be 1 or more"),
        (["a.png", "--csv", "nowhere/out.csv"], "--csv is 'nowhere/out.csv'; it must be a file in an existing folder"),
        (["a.png", "--model", "resnetsmall14"], "trees.safetensors is for resnetsmall8, not for resnetsmall14"),
    ],
)
def test_an_invalid_request_is_reported_in_one_sentence(words, message, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    (tmp_path / "a.png").write_bytes(picture(0))
    assert main(["predict", "--weights", str(weights), *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_weights_without_a_classifier_are_refused(weights, folder, tmp_path):
    tensors = load_file(weights)
    headless = {name: values for name, values in tensors.items() if not name.startswith("linear.")}
    save_file(headless, tmp_path / "resnetsmall8.safetensors")
    with pytest.raises(jaxft.UserError, match=r"resnetsmall8\.safetensors has no classifier"):
        jaxft.predict(tmp_path / "resnetsmall8.safetensors", folder)


def test_an_empty_list_of_images_is_refused(weights):
    with pytest.raises(jaxft.UserError, match="there are no images to predict"):
        jaxft.predict(weights, [])


def test_an_existing_csv_file_is_replaced_only_with_force(certain, folder, tmp_path, capsys):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    words = ["predict", "--weights", str(certain), "--csv", str(out), str(folder)]
    assert main(words) == 2 and out.read_text() == "mine"
    assert f"the file {str(out)!r} exists; name another one, or replace it with --force." in capsys.readouterr().err
    assert main([*words, "--force"]) == 0 and out.read_text().startswith("file,rank")


def test_a_failed_command_leaves_no_csv_file(weights, folder, tmp_path):
    out = tmp_path / "out.csv"
    assert main(["predict", "--weights", str(weights), "--top", "0", "--csv", str(out), str(folder)]) == 2
    assert not out.exists() and not [path for path in tmp_path.iterdir() if path.suffix == ".csv"]


def test_a_network_for_imagenet_uses_the_center_crop(tmp_path):
    """The crop is the center 224 of 256 pixels: the outer 16 pixels are ignored, the 17th is not."""
    model = create_model("cifar_resnet8", num_classes=1000)
    preprocessing = dataclasses.replace(model.preprocessing, size_px=224)
    manifest = Manifest("", "", model.architecture, preprocessing, CLASS_NAMES["imagenet"])
    save_weights(tmp_path / "net.safetensors", model, draw_variables(model, 32), manifest)
    whole = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    files = []
    for rim in (0, 16, 17):
        framed = np.zeros_like(whole)
        framed[rim : 256 - rim, rim : 256 - rim] = whole[rim : 256 - rim, rim : 256 - rim]
        files.append(tmp_path / f"{rim}.png")
        Image.fromarray(framed).save(files[-1])
    none, sixteen, seventeen = jaxft.predict(tmp_path / "net.safetensors", files)
    assert none.probabilities == sixteen.probabilities != seventeen.probabilities


def test_images_are_read_one_batch_at_a_time(weights):
    read = []

    def member(i):
        return PurePosixPath(f"{i}.png"), lambda: read.append(i) or picture(i)

    predictions = predict_members(jaxft.load(weights), [member(i) for i in range(20)], batch_size=4)
    assert read == []
    next(predictions)
    assert sorted(read) == [0, 1, 2, 3]
    assert len(list(predictions)) == 19


def test_hidden_files_are_ignored_unless_their_folder_is_named(folder):
    hidden = folder / ".cache" / "elm"
    hidden.mkdir(parents=True)
    (hidden / "1.png").write_bytes(picture(0))
    assert len(find_pictures([folder])) == 7
    assert len(find_pictures([folder / ".cache"])) == 1


def test_classes_and_splits_are_those_of_training():
    names = ["pets/cat/test_set/1.png", "pets/cat/train/1.png", "pets/dog/train/1.png"]
    assert class_folders([PurePosixPath(name) for name in names]) == [
        ("cat", "test"),
        ("cat", "train"),
        ("dog", "train"),
    ]
    assert class_folders([PurePosixPath("a/cat/1.png"), PurePosixPath("dog.png")]) == [("cat", ""), ("", "")]


@pytest.mark.slow
def test_a_closed_pipe_causes_no_traceback(certain, folder):
    command = f"{sys.executable} -m jaxft.cli predict --weights {certain} {folder} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("image") and "Traceback" not in done.stderr


# --- names of classes -------------------------------------------------------------------------------------------


def test_imagenet_has_a_thousand_names_in_the_order_of_their_ids():
    classes = imagenet_classes()
    assert len(classes) == 1000 and list(classes) == sorted(classes)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in classes)
    assert len({name.casefold() for name in classes.values()}) == 1000
    assert CLASS_NAMES["imagenet"] == tuple(classes.values())
    # Well-known labels: tench is the first, toilet tissue the last.
    names = CLASS_NAMES["imagenet"]
    assert (names[0], names[207], names[281], names[999]) == ("tench", "golden retriever", "tabby", "toilet tissue")


def test_every_data_set_has_its_number_of_names():
    assert {name: len(CLASS_NAMES[name]) for name in CLASS_NAMES} == {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
    assert CLASS_NAMES.get("unknown", ()) == ()


def test_imagenet_names_are_those_of_the_real_files(real_data):
    with zipfile.ZipFile(real_data / "images" / "imagenet-sample-1000.zip") as archive:
        stems = sorted(PurePosixPath(name).stem for name in archive.namelist())
    assert len(stems) == 1000
    for stem, (wnid, name) in zip(stems, imagenet_classes().items()):
        number, wnid_of_file, label = stem.split("_", 2)
        assert wnid_of_file == wnid and name.partition(" (")[0] == label.replace("_", " ")
        assert list(imagenet_classes())[int(number)] == wnid


# --- real networks ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cifar10_test_pictures(real_data, tmp_path, capsys):
    """The README of the data states an accuracy of 80.4% for the 1,000 test images."""
    archive = real_data / "images" / "cifar10-jpeg-4000.zip"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(tmp_path / "cifar10.zip", "w") as part:
        for name in whole.namelist():
            if name.startswith("test/"):
                part.writestr(name, whole.read(name))
    weights = real_data / "weights" / "cifar_resnet20.cifar10.safetensors"
    out = tmp_path / "out.csv"
    words = ["--weights", str(weights), "--csv", str(out), "--batch-size", "128", str(tmp_path / "cifar10.zip")]
    assert main(["predict", *words]) == 0
    assert "accuracy in test: 80.4% (804 of the 1,000 images" in capsys.readouterr().out
    rows = rows_of(out)
    assert len(rows) == 5000
    first = [row for row in rows if row["rank"] == "1"]
    assert sum(row["class"] == PurePosixPath(row["file"]).parent.name for row in first) == 804


@pytest.mark.nightly
@pytest.mark.slow
def test_imagenet_pictures_in_folders_of_wordnet_ids(real_data, tmp_path, capsys):
    """The README of the data states a top-1 accuracy of 86.8% and a top-5 accuracy of 96.9%."""
    with (
        zipfile.ZipFile(real_data / "images" / "imagenet-sample-1000.zip") as whole,
        zipfile.ZipFile(tmp_path / "imagenet.zip", "w") as sorted_by_id,
    ):
        for name in whole.namelist():
            sorted_by_id.writestr(f"{name.split('_')[1]}/{name}", whole.read(name))
    weights = real_data / "weights" / "efficientnet_lite0.imagenet.safetensors"
    words = ["--weights", str(weights), "--csv", str(tmp_path / "out.csv"), str(tmp_path / "imagenet.zip")]
    assert main(["predict", *words]) == 0
    out = capsys.readouterr().out
    assert "accuracy: 86.8% (868 of the 1,000 images" in out and "top-5: 96.9%" in out
