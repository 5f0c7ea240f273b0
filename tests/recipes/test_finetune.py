"""`finetune`: the delivered weights are the tested weights, in the format of the pretrained file."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import jaxft
from jaxft import cli
from jaxft.config import PreprocessingConfig
from jaxft.data import load_images
from jaxft.models import Preprocessing, create_model
from jaxft.models.initialization import init_variables
from jaxft.recipes.finetune.candidates import below_last_stage, make_candidates
from jaxft.recipes.finetune.folder import claim_folder
from jaxft.recipes.finetune.options import FinetuneOptions
from jaxft.recipes.finetune.selection import rank
from jaxft.recipes.finetune.task import HELD_OUT, make_task
from jaxft.recipes.range_test import HIGHEST, LOWEST, NUM_STEPS, range_study
from jaxft.study.plan import make_plan
from jaxft.weights import read_network, save_weights

SIZE = 8
COLORS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (210, 50, 40)}


def write_pictures(folder, counts, seed=0):
    """Writes noisy pictures of one color a class: something that any network learns."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.normal(np.array(COLORS[name]), 60, (20, 24, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, dict.fromkeys(COLORS, 15))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns files of a small network of random weights: for any other use they would be worthless."""
    folder = tmp_path_factory.mktemp("weights")
    model = create_model("toy", num_classes=4)
    variables = init_variables(model, jax.random.key(0), SIZE)
    for suffix in ("safetensors", "pth"):
        save_weights(folder / f"toy.{suffix}", model, variables)
    return folder


@pytest.fixture(scope="module")
def result(pictures, weights, made_once):
    """Returns the folder that a call made, once, and its record."""

    def run(folder):
        shutil.copytree(pictures, folder / "pictures")
        shutil.copy(weights / "toy.pth", folder)
        jaxft.finetune(folder / "toy.pth", folder / "pictures", folder / "mine", seeds=2, size_px=SIZE, quiet=True)

    out = made_once("finetune", run) / "mine"
    return out, json.loads((out / "finetune.json").read_text())


@pytest.mark.slow
def test_the_record_counts_every_image_once(result):
    """Of 15 images per class, 3 are test images and 2 of the other 12 are validation images."""
    _, record = result
    data = record["data"]
    assert (data["train"], data["val"], data["test"]) == (3 * 10, 3 * 2, 3 * 3)
    assert data["train_per_class"] == [12, 12, 12] and data["test_per_class"] == [3, 3, 3]
    assert data["test_from"] == "a held-out fifth of each class"
    assert np.sum(record["confusion"], axis=1).tolist() == [3, 3, 3]
    assert np.trace(record["confusion"]) / 9 == pytest.approx(record["test"]["accuracy"][0])
    assert len(record["mistakes"]) == 9 - np.trace(record["confusion"])
    shares = np.diag(record["confusion"]) / 3
    assert record["test"]["mean_per_class"] == pytest.approx(shares.mean())
    assert list(record["test"]) == ["accuracy", "mean", "half_width", "mean_per_class"]
    assert np.mean(record["test"]["accuracy"]) == pytest.approx(record["test"]["mean"])
    assert data["folds"] == 5  # of 6 images each
    assert any("only 30 validation images" in warning for warning in record["warnings"])


@pytest.mark.slow
def test_the_best_candidate_on_validation_is_selected(result):
    _, record = result
    best = max(record["candidates"], key=rank)
    assert [c["name"] for c in record["candidates"] if c["selected"]] == [best["name"]] == [record["selected"]]
    assert best["val_accuracy"] >= 25 / 30  # colors are easy
    assert record["test"]["mean"] >= 7 / 9


@pytest.mark.slow
def test_weights_are_written_in_the_original_format_and_for_flax(result, pictures):
    out, record = result
    assert record["files"] == ["weights.pth", "weights.msgpack"]
    images = load_images(jaxft.config.Images(data=str(pictures)), SIZE)
    rows = jaxft.data.draw_split(images, 0, jaxft.config.Images(test_fraction=HELD_OUT), "").test
    for name in record["files"]:
        model, variables, manifest = read_network(out / name)
        assert manifest.class_names == ("blue", "green", "red") and manifest.preprocessing.size_px == SIZE
        logits = model.apply(variables, manifest.preprocessing.apply(images.images[rows]))
        right = np.mean(np.argmax(logits, axis=1) == images.labels[rows])
        assert right == pytest.approx(record["test"]["accuracy"][0])
    predicted = list(jaxft.predict(out / "weights.pth", [str(pictures / "red" / "0.png")], top=1))
    assert len(predicted) == 1


@pytest.mark.slow
def test_the_report_and_the_card_name_the_selected_candidate_and_the_network(result):
    out, record = result
    page, card = (out / "report.html").read_text(), (out / "MODEL_CARD.md").read_text()
    assert record["selected"] in page and "toy" in card and card.startswith("---\n")


@pytest.mark.slow
def test_assumed_preprocessing_is_on_the_page_and_in_the_card(result):
    out, record = result
    assert record["warnings"][0].startswith("toy.pth does not record its preprocessing, so jaxft assumes the default")
    page, card = (out / "report.html").read_text(), (out / "MODEL_CARD.md").read_text()
    for text in (page, card):
        assert "does not record its preprocessing" in text and "source.preprocessing" in text


def test_given_preprocessing_reaches_both_studies(weights, pictures):
    given = PreprocessingConfig((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    options = FinetuneOptions(str(weights / "toy.pth"), str(pictures), "", size_px=SIZE, preprocessing=given)
    task = make_task(options)
    expected = Preprocessing(SIZE, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert task.manifest.preprocessing == expected and not task.manifest.assumed
    name = next(iter(task.candidates))
    for study in (task.selection(), task.refit(name, 1), range_study(task)):
        plan = make_plan(study)
        assert plan.warnings == ()
        assert {phase.preprocessing for trial in plan.trials for phase in trial.program.phases} == {expected}


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_the_same_call_resumes_and_returns_the_same_record(result, tmp_path):
    folder, record = result[0].parent, result[1]
    out = shutil.copytree(folder / "mine", tmp_path / "mine")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/trials/*.json")}
    (out / "finetune.json").unlink()  # as if the call had been interrupted before its end
    again = jaxft.finetune(folder / "toy.pth", folder / "pictures", out, seeds=2, size_px=SIZE, quiet=True)
    assert json.loads((out / "finetune.json").read_text()) == again
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/trials/*.json")} == before
    changing = ("seconds", "command")
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in record.items() if k not in changing
    }


def times_of_files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_finished_folder_is_changed_only_by_force(result, tmp_path, capsys):
    folder, record = result[0].parent, result[1]
    out = shutil.copytree(folder / "mine", tmp_path / "mine")
    shutil.copytree(folder / "pictures", tmp_path / "moved")
    (out / "notes.txt").write_text("of the user")
    before = times_of_files(out)
    words = ["finetune", "--weights", str(folder / "toy.pth"), "--out", str(out), "--size-px", str(SIZE)]
    assert cli.main([*words, "--data", str(tmp_path / "moved"), "--seeds", "2"]) == 0  # the same images elsewhere
    printed = capsys.readouterr()
    assert "contains the complete result of this command, so nothing is computed or written" in printed.err
    assert f"saved network: seed {record['delivered_seed']}" in printed.out and times_of_files(out) == before
    words += ["--data", str(folder / "pictures"), "--seeds", "1"]
    assert cli.main(words) == 2 and "(--seeds was 2 and is 1)" in capsys.readouterr().err
    assert times_of_files(out) == before
    assert cli.main([*words, "--train", "head", "--force"]) == 0
    record = json.loads((out / "finetune.json").read_text())
    assert record["seeds"] == [0] and {c["trained"] for c in record["candidates"]} == {"head"}
    assert len(list(out.glob("refit/trials/*.json"))) == 1 and (out / "notes.txt").is_file()


IDENTITY = {"size_px": 32, "model": "toy", "weights": "w", "data": "d", "seeds": 3, "train": "auto"}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seeds": 5}, "--seeds was 3 and is 5"),
        ({"size_px": 64, "data": "e"}, "--size-px was 32 and is 64"),
        ({"weights": "v"}, "--weights has other contents"),
        ({"data": "e"}, "--data has other contents"),
        ({"mean": (0.5, 0.5, 0.5)}, "--mean was not set and is "),
    ],
)
def test_a_folder_of_another_command_is_refused_in_one_sentence(change, difference, tmp_path):
    folder = tmp_path / "mine"
    claim_folder(folder, IDENTITY, force=False)
    (folder / "finetune.json").write_text("{}")
    (folder / "learning_rate.json").write_text("{}")
    claim_folder(folder, IDENTITY, force=False)
    with pytest.raises(jaxft.UserError, match=re.escape(difference)) as error:
        claim_folder(folder, IDENTITY | change, force=False)
    assert "name another folder, or replace the result with --force." in str(error.value)
    assert (folder / "finetune.json").is_file()
    claim_folder(folder, IDENTITY | change, force=True)
    assert {path.name for path in folder.iterdir()} == {"command.json", "learning_rate.json"}
    claim_folder(folder, json.loads(json.dumps(IDENTITY | change)), force=False)


def test_every_option_that_can_change_the_result_is_in_the_identity(weights, pictures, tmp_path):
    def identity(name="toy.pth", **options):
        return make_task(FinetuneOptions(str(weights / name), str(pictures), str(tmp_path), **options)).identity

    plain = identity()
    options, of_preprocessing = (
        {field.name for field in dataclasses.fields(section)} for section in (FinetuneOptions, PreprocessingConfig)
    )
    assert set(plain) == (options | of_preprocessing) - {"out", "preprocessing"}
    assert identity(model="toy", size_px=plain["size_px"]) == plain  # the values that the file has
    assert identity(seeds=2) == plain | {"seeds": 2} and identity(train="all") == plain | {"train": "all"}
    given = identity(preprocessing=PreprocessingConfig(mean=(0.1, 0.2, 0.3)))
    assert given == plain | {"mean": [0.1, 0.2, 0.3]} == json.loads(json.dumps(given))
    other = identity("toy.safetensors")
    assert {name for name in plain if plain[name] != other[name]} == {"weights"}


@pytest.mark.nightly
@pytest.mark.slow
def test_real_scenes_from_twenty_a_class(real_data, tmp_path):
    """A CIFAR-100 network of 0.1 million parameters tells six kinds of scenes apart; chance is 17 %."""
    import zipfile

    with zipfile.ZipFile(real_data / "images" / "intel-scenes-6.zip") as archive:
        taken: dict[str, int] = {}
        for name in sorted(archive.namelist()):
            folder = name.rpartition("/")[0]
            taken[folder] = taken.get(folder, 0) + 1
            if taken[folder] <= 20 and not name.endswith("/"):
                archive.extract(name, tmp_path / "scenes")
    weights = real_data / "weights" / "resnetsmall8.cifar100.safetensors"
    code = cli.main(
        ["finetune", "--weights", str(weights), "--data", str(tmp_path / "scenes"), "--out", str(tmp_path / "out")]
    )
    record = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert code == 0 and record["data"]["test_from"] == "the test split of the data"
    assert (record["data"]["train"], record["data"]["val"], record["data"]["test"]) == (96, 24, 120)
    assert record["test"]["mean"] > 0.6
    assert record["files"] == ["weights.safetensors", "weights.msgpack"]


# --- the recipe -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "last_frozen"),
    [
        ("efficientnet_lite0", "stage5/block3"),  # 14 x 14 before, 7 x 7 after
        ("resnet18", "stage3/block2"),
        ("cifar_resnet8", "stage2/block1"),
        ("wrn10_1", "stage2/block1"),
    ],
)
def test_the_top_begins_at_the_last_change_of_resolution(name, last_frozen):
    assert below_last_stage(create_model(name, 10))[-1] == last_frozen


@pytest.mark.parametrize(("num_train", "epochs", "views"), [(32, 40, 8), (400, 8, 8), (1000, 6, 4), (100_000, 6, 2)])
def test_fewer_images_have_more_epochs_and_more_views(num_train, epochs, views):
    candidates = make_candidates(create_model("cifar_resnet8", 2), num_train, "top")
    assert (
        candidates["top at 0.001"]["schedule.epochs"] == epochs
        and candidates["top at 0.001"]["augmentation.views"] == views
    )
    heads = ["head with decay 0.003", "head with decay 0.01", "head with decay 0.03"]
    assert list(candidates) == ["top at 0.0003", "top at 0.001", *heads]


def test_the_number_of_candidates_depends_on_train():
    model = create_model("cifar_resnet8", 2)
    count = {train: len(make_candidates(model, 100, train)) for train in ("head", "top", "all", "auto")}
    assert count == {"head": 3, "top": 5, "all": 7, "auto": 5}  # auto on a CPU


def test_validation_loss_breaks_ties():
    one, other = ({"val_accuracy": 0.5, "curves": {"val_loss": [0.1, loss]}} for loss in (0.9, 0.8))
    assert rank(other) > rank(one)


# --- bad input --------------------------------------------------------------------------------------------------


def test_invalid_input_is_reported_in_one_sentence(weights, pictures, tmp_path, capsys):
    file, full = str(weights / "toy.safetensors"), tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    few = tmp_path / "few"
    write_pictures(few, {"red": 2, "blue": 2})
    empty = tmp_path / "one"
    write_pictures(empty, {"red": 5})
    broken = tmp_path / "broken"
    write_pictures(broken, {"red": 5, "blue": 5})
    (broken / "red" / "3.png").write_bytes(b"no picture")
    cases = [
        ({"--weights": "nowhere.pth"}, "there is no weight file 'nowhere.pth'"),
        ({"--data": str(tmp_path / "nothing")}, "nothing' does not exist; allowed"),
        ({"--data": str(empty)}, "has only one class, 'red'"),
        ({"--data": str(broken)}, "3.png"),
        ({"--model": "cifar_resnet9"}, "there is no model 'cifar_resnet9'"),
        ({"--model": "cifar_resnet14"}, "is for toy, not for cifar_resnet14"),
        ({"--out": str(full)}, "contains other files"),
        ({"--out": str(full / "notes.txt")}, "is a file"),
        ({"--seeds": "0"}, "--seeds is 0"),
        ({"--size-px": "-5"}, "--size-px is -5"),
        ({"--data": str(few)}, "too few images for validation"),
    ]
    for change, expected in cases:
        words = {"--weights": file, "--data": str(pictures), "--out": str(tmp_path / "out"), **change}
        code = cli.main(["finetune", *(word for pair in words.items() for word in pair)])
        error = capsys.readouterr().err.strip()
        assert code == 2 and expected in error and len(error.splitlines()) == 1, (change, error)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_find_lr_suggests_a_rate_and_plots_it(pictures, weights, tmp_path, capsys):
    words = ["finetune", "--weights", str(weights / "toy.pth"), "--data", str(pictures)]
    words += ["--out", str(tmp_path / "out"), "--size-px", str(SIZE), "--find-lr"]
    assert cli.main([*words, "--train", "all"]) == 0
    said = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "learning_rate.json").read_text())
    assert f"suggested learning rate: {record['suggested']:.2g}" in said
    assert record["candidate"].startswith("all at")
    assert record["rates"][0] == pytest.approx(LOWEST, rel=1e-3) and record["rates"][-1] <= HIGHEST * 1.001
    growth = record["rates"][1] / record["rates"][0]
    assert growth == pytest.approx((HIGHEST / LOWEST) ** (1 / (NUM_STEPS - 1)), rel=1e-3)
    assert min(record["losses"]) < record["losses"][0]
    with Image.open(tmp_path / "out" / "learning_rate.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 400
    before = times_of_files(tmp_path / "out")
    assert cli.main([*words, "--train", "top"]) == 2
    assert "(--train was all and is top)" in capsys.readouterr().err
    assert times_of_files(tmp_path / "out") == before
    assert cli.main([*words, "--train", "head"]) == 2  # the same folder, and no candidate with a learning rate
    assert "--find-lr cannot be used with --train head" in capsys.readouterr().err
