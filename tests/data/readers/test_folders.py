"""Class folders as all commands see them: one layout, folders without images, and names of all encodings."""

import zipfile

import numpy as np
import pytest
from data.test_data import PICTURES, png, write_folder, write_zip
from data.test_readers import write_tar

import jaxft
from jaxft.cli import main
from jaxft.config import Images, Study, from_dict
from jaxft.core.errors import UserError
from jaxft.data import load_images
from jaxft.recipes.finetune.options import FinetuneOptions
from jaxft.recipes.finetune.task import make_task
from jaxft.study.plan import make_plan

SPLITS = {f"{part}/{name}": content for part in ("training_set", "test_set") for name, content in PICTURES.items()}


def write_empty_folder(path, files, empty):
    write_folder(path, files)
    for name in empty:
        (path / name).mkdir(parents=True)
    return str(path)


def write_empty_zip(path, files, empty):
    write_zip(path, files)
    with zipfile.ZipFile(path, "a") as archive:
        for name in empty:
            archive.writestr(f"{name}/", b"")
    return str(path)


def findings(data):
    """Returns the names of each kind of finding of `jaxft data check`."""
    return {
        finding.kind: [name for name, _ in finding.items] for finding in jaxft.check_data(data, quiet=True).findings
    }


@pytest.mark.parametrize("write", [write_empty_folder, write_empty_zip])
def test_an_empty_class_folder_is_an_error_or_is_named(tmp_path, write):
    data = write(tmp_path / "pets.any", PICTURES, ["fox"])
    with pytest.raises(UserError, match=r"pets\.any': no images in the class folder fox; readable suffixes are \.jpg"):
        load_images(Images(data=data), 4)
    found = load_images(Images(data=data, unreadable="skip"), 4)
    assert found.class_names == ("cat", "dog", "eel") and found.skipped == ()
    assert found.notes == (f"{data!r}: no images in the class folder fox; left out.",)
    assert found.fingerprint == load_images(Images(data=write_folder(tmp_path / "plain", PICTURES)), 4).fingerprint
    assert findings(data)["folder without images"] == ["fox"]


def test_a_class_folder_with_other_files_only_is_an_error(tmp_path):
    data = write_folder(tmp_path, PICTURES | {"fox/1.heic": b"x", "readme.txt": b"x"})
    with pytest.raises(UserError, match="no images in the class folder fox;"):
        load_images(Images(data=data), 4)


def test_a_class_of_which_no_image_can_be_read_is_a_problem_and_named(tmp_path):
    data = write_folder(tmp_path, PICTURES | {"fox/1.png": b"", "fox/2.png": b"x"})
    assert findings(data)["class without readable images"] == ["fox"]
    found = load_images(Images(data=data, unreadable="skip"), 4)
    assert found.class_names == ("cat", "dog", "eel")
    assert found.notes == (f"{data!r}: no image of the class 'fox' can be read; the class is left out.",)


def test_a_study_warns_of_folders_that_are_left_out(tmp_path):
    data = write_empty_folder(tmp_path, {f"train/{name}": c for name, c in PICTURES.items()}, ["train/fox"])
    write_folder(tmp_path, {"test/1.png": png(1), "test/2.png": png(2)})
    fields = {
        "seeds": 1,
        "target": {"data": data, "size_px": 8, "train_per_class": 1, "unreadable": "skip"},
        "training": {"initialization.start": "random", "schedule.epochs": 1.0, "batches.size": 3},
    }
    assert make_plan(from_dict(Study, fields)).warnings == (
        f"{data!r}: 2 images in the folder 'test' have no class and are left out.",
        f"{data!r}: no images in the class folder train/fox; left out.",
    )


def test_all_commands_agree_on_the_layout(tmp_path):
    data = write_folder(tmp_path, SPLITS)
    images = load_images(Images(data=data), 4)
    assert images.class_names == ("cat", "dog", "eel") and (images.subsets == "test").sum() == 12
    assert images.folders == "classes cat, dog, eel; splits test_set (test), training_set (train)"
    report = jaxft.check_data(data, quiet=True)
    assert dict(report.subsets) == {"test": 12, "train": 12} and list(report.classes) == ["cat", "dog", "eel"]


REFUSED = {"train/cat/1.png": png(1), "train/dog/1.png": png(2), "train/dog/2.png": png(3), "train/x.png": png(4)}


def test_all_commands_refuse_the_same_layout(tmp_path, capsys):
    data = write_folder(tmp_path, REFUSED)
    message = "has the image 'train/x.png' outside of the layout split/class/image of 3 of its 4 images"
    assert main(["data", "check", data]) == 2 and message in capsys.readouterr().err
    fields = {
        "target": {"data": data, "size_px": 8, "train_per_class": 1},
        "training": {"initialization.start": "random"},
    }
    with pytest.raises(UserError, match=message):
        make_plan(from_dict(Study, fields))


def test_finetune_knows_the_folders(tmp_path, real_data):
    data = write_folder(tmp_path, {f"train/{n}/{i}.png": png(7 * i) for n in ("cat", "dog") for i in range(6)} | {
        f"Testing/{n}/{i}.png": png(50 + 7 * i) for n in ("cat", "dog") for i in range(2)
    })  # fmt: skip
    weights = str(real_data / "weights/resnetsmall8.cifar10.safetensors")
    task = make_task(FinetuneOptions(weights=weights, data=data, out=str(tmp_path / "out")))
    assert task.images.folders == "classes cat, dog; splits Testing (test), train"
    write_folder(tmp_path, {"Testing/x.png": png(1)})
    with pytest.raises(UserError, match=r"has the image 'Testing/x\.png' outside of the layout split/class/image"):
        make_task(FinetuneOptions(weights=weights, data=data, out=str(tmp_path / "out")))


# --- names ------------------------------------------------------------------------------------------------------


def test_a_zip_archive_with_backslashes_equals_its_folder(tmp_path):
    folder = load_images(Images(data=write_folder(tmp_path / "folder", SPLITS)), 4)
    names = {name.replace("/", "\\"): content for name, content in SPLITS.items()}
    archive = load_images(Images(data=write_zip(tmp_path / "a.zip", names)), 4)
    assert archive.ids == folder.ids and archive.fingerprint == folder.fingerprint


@pytest.mark.parametrize(("encoding", "name"), [("utf-8", "Äpfel"), ("cp437", "Äpfel"), ("utf-8", "猫")])
def test_undeclared_encodings_of_zip_names_are_read(tmp_path, encoding, name):
    path = tmp_path / "a.zip"
    raw = name.encode(encoding)
    write_zip(path, {f"{'x' * len(raw)}/1.png": png(1), "dog/1.png": png(2)})  # ASCII names do not set the flag
    path.write_bytes(path.read_bytes().replace(b"x" * len(raw), raw))
    assert load_images(Images(data=str(path)), 4).class_names == tuple(sorted(["dog", name]))


@pytest.mark.parametrize("write", ["folder", "tar"])
def test_names_that_are_not_utf8_work(tmp_path, write, capsys):
    files = PICTURES | {"caf\udce9/1.png": png(200), "caf\udce9/2.png": png(201)}
    if write == "tar":
        data = write_tar(tmp_path / "a.tar", files)
    else:
        try:
            data = write_folder(tmp_path / "a", files)
        except OSError:
            pytest.skip("the file system takes names in UTF-8 only")
    found = load_images(Images(data=data), 4)
    assert found.class_names == ("caf\\xe9", "cat", "dog", "eel") and found.ids[0] == "caf\\xe9/1.png"
    assert found.images[:2, 0, 0, 0].tolist() == [200, 201]
    main(["data", "check", data, "--json"])
    assert '"caf\\\\xe9": 2' in capsys.readouterr().out


def test_thumbnails_of_network_drives_are_hidden(tmp_path):
    data = write_folder(tmp_path, PICTURES | {"cat/@eaDir/0.png": png(1), "$RECYCLE.BIN/1.png": png(1)})
    assert load_images(Images(data=data), 4).ids == tuple(PICTURES)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".avif", ".JPG", ".jp2", ".pbm", ".tga", ".webp", ".qoi"])
def test_images_of_other_suffixes_are_read(tmp_path, suffix):
    from PIL import Image

    format = {".jfif": "jpeg", ".jpe": "jpeg", ".jpg": "jpeg", ".jp2": "jpeg2000", ".pbm": "ppm"}.get(suffix.lower())
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8), (255, 255, 255)).convert("1" if suffix == ".pbm" else "RGB").save(
        tmp_path / f"cat/a{suffix}", format or suffix[1:]
    )
    data = write_folder(tmp_path, {"dog/1.png": png(0)})
    found = load_images(Images(data=data), 4)
    assert found.ids == (f"cat/a{suffix}", "dog/1.png") and np.abs(found.images[0].astype(int) - 255).max() <= 2
    assert "wrong suffix" not in findings(data)


def test_documents_and_scripts_are_not_opened_as_images(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    data = write_folder(tmp_path, PICTURES | {"cat/a.jpg": eps, "cat/b.eps": eps, "cat/c.pdf": b"%PDF-1.4"})
    assert findings(data)["cannot be read"] == ["cat/a.jpg"]
    assert findings(data)["skipped file"] == ["cat/b.eps", "cat/c.pdf"]
