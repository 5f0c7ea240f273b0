"""TensorFlow Datasets, prepared as real array_record files and read without TensorFlow."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxft.cli import main
from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.data import load_images
from jaxft.data.readers import tfds

# In a file of its own, so that another process can prepare it as well. `digits_tiny` is what TFDS makes of the name.
BUILDER = '''
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits


class DigitsTiny(tfds.core.GeneratorBasedBuilder):
    """scikit-learn's digits as pictures, with a second label and splits that are no parts."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, description=name) for name in ("plain", "wide")]

    def _info(self):
        shape = (8, 8, 1) if self.builder_config.name == "plain" else (None, None, 3)
        return tfds.core.DatasetInfo(
            builder=self,
            description="digits",
            disable_shuffling=True,  # TFDS orders examples by a hash of their keys
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape),
                    "label": tfds.features.ClassLabel(names=[f"digit {i}" for i in range(10)]),
                    "parity": tfds.features.ClassLabel(names=["even", "odd"]),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(0, 60),
            "test": self._generate_examples(60, 90),
            "validation": self._generate_examples(90, 110),
            "extra": self._generate_examples(110, 115),
        }

    def _generate_examples(self, start, stop):
        digits = load_digits()
        for i in range(start, stop):
            image = Image.fromarray(np.round(digits.images[i] * (255 / 16)).astype(np.uint8))
            if self.builder_config.name == "wide":
                image = Image.fromarray(np.pad(image, ((0, 0), (0, i % 3)))).convert("RGB")
            label = int(digits.target[i])
            yield i, {"image": image, "label": label, "parity": label % 2}  # arrays would take TensorFlow to encode
'''
PREPARE = (
    "import sys, digits_tiny; from jaxft.data.readers.tfds import prepare; [prepare(spec) for spec in sys.argv[1:]]"
)


@pytest.fixture(scope="module")
def prepared(made_once):
    """Returns the folder where the digits were prepared, by the function that `jaxft data prepare` runs."""

    def prepare(folder):
        (folder / "digits_tiny.py").write_text(BUILDER)
        subprocess.run(
            [sys.executable, "-c", PREPARE, "tfds:digits_tiny/plain", "tfds:digits_tiny/wide"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "TFDS_DATA_DIR": str(folder)},
            check=True,
            capture_output=True,
        )

    return made_once("tfds", prepare)


@pytest.fixture
def here(prepared, tmp_path, monkeypatch):
    """Returns a copy of the prepared sets, which a test may damage, as TFDS's folder."""
    shutil.copytree(prepared / "digits_tiny", tmp_path / "digits_tiny")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path / "digits_tiny"


pytestmark = pytest.mark.slow


def test_a_prepared_set_equals_its_arrays(here):
    digits = load_images(Images(), None)
    found = load_images(Images(data="tfds:digits_tiny/plain"), 8)
    rows = [*range(60), *range(90, 110), *range(60, 90)]  # train, validation, test
    assert (found.images == digits.images[rows]).all() and (found.labels == digits.labels[rows]).all()
    assert found.class_names == tuple(f"digit {i}" for i in range(10))
    assert found.subsets.tolist() == ["train"] * 60 + ["val"] * 20 + ["test"] * 30
    assert found.ids[0] == "train/0" and found.ids[60] == "validation/0"
    assert "tensorflow" not in sys.modules


def test_images_of_several_sizes_are_resized_like_image_files(here):
    found = load_images(Images(data="tfds:digits_tiny/wide:1.0.0"), 6)
    digits = load_images(Images(), None)
    for i in range(60):
        wide = Image.fromarray(np.pad(digits.images[i], ((0, 0), (0, i % 3), (0, 0))))
        # 8 x (8 + p) becomes 6 x round(6 (8 + p) / 8), whose center is kept
        small = wide.resize((round(wide.width * 0.75), 6), Image.Resampling.BILINEAR)
        left = (small.width - 6) // 2
        assert (found.images[i] == np.asarray(small)[:, left : left + 6]).all()


def test_another_label_can_be_selected(here):
    found = load_images(Images(data="tfds:digits_tiny/plain", label="parity"), 8)
    assert found.class_names == ("even", "odd")
    assert found.fingerprint != load_images(Images(data="tfds:digits_tiny/plain"), 8).fingerprint
    with pytest.raises(
        UserError, match=r"has no label 'party' \(did you mean 'parity'\?\); its labels are label, parity\."
    ):
        load_images(Images(data="tfds:digits_tiny/plain", label="party"), 8)


def test_several_prepared_configs_are_an_error(here):
    with pytest.raises(
        UserError, match="is prepared in 2 configs, plain, wide; name one, such as tfds:digits_tiny/plain"
    ):
        load_images(Images(data="tfds:digits_tiny"), 8)
    shutil.rmtree(here / "wide")
    assert len(load_images(Images(data="tfds:digits_tiny"), 8).images) == 110


@pytest.mark.parametrize("spec", ["tfds:digits_tiny/plain:2.0.0", "tfds:digits_tiny/other", "tfds:nothing"])
def test_an_unprepared_set_is_an_error_with_the_command(here, spec):
    with pytest.raises(UserError, match=f"'{spec}' is not prepared in .*; run `jaxft data prepare {spec}`, or"):
        load_images(Images(data=spec), 8)


def edit_info(here, change):
    path = here / "plain/1.0.0/dataset_info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


@pytest.mark.parametrize("length", ["59", "61", "1000"])
def test_a_length_that_differs_from_the_metadata_is_an_error(here, length):
    def change(info):
        (train,) = (split for split in info["splits"] if split["name"] == "train")
        train["shardLengths"] = [length]

    edit_info(here, change)
    with pytest.raises(UserError, match=f"'train' contains 60 images, but its metadata state {int(length):,}; delete"):
        load_images(Images(data="tfds:digits_tiny/plain"), 8)


def test_another_format_is_an_error_with_the_command(here):
    def change(info):
        info["fileFormat"] = "tfrecord"

    edit_info(here, change)
    with pytest.raises(
        UserError, match="is prepared as tfrecord, which only TensorFlow can read; delete the folder, then `jaxft"
    ):
        load_images(Images(data="tfds:digits_tiny/plain"), 8)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "metadata"])
def test_damage_is_one_sentence(here, damage):
    (file,) = (here / "plain/1.0.0").glob("*train.array_record*")
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[200] ^= 0xFF
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        file.unlink()
    else:
        (here / "plain/1.0.0/features.json").write_text("{")
    with pytest.raises(UserError, match="'tfds:digits_tiny/plain'") as error:
        load_images(Images(data="tfds:digits_tiny/plain"), 8)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_report")
def test_a_study_of_a_prepared_set(here, tmp_path, capsys):
    config = tmp_path / "tiny.py"
    config.write_text(
        "def get_config():\n"
        "    return {'seeds': 1, 'target': {'data': 'tfds:digits_tiny/plain', 'size_px': 8, 'val_fraction': 0.5},\n"
        "            'source': {'model': 'toy'}, 'training': "
        "{'initialization.start': 'random', 'schedule.epochs': 1.0, 'batches.size': 16}}\n"
    )
    assert main(["study", f"--config={config}", f"--workdir={tmp_path / 'work'}"]) == 0
    capsys.readouterr()
    main(["data", "check", "tfds:digits_tiny/plain", "--json"])
    assert json.loads(capsys.readouterr().out)["subsets"] == {"train": 60, "val": 20, "test": 30}


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed here")
def test_preparing_without_tensorflow_is_an_error(capsys):
    assert main(["data", "prepare", "tfds:oxford_flowers102"]) == 2
    assert capsys.readouterr().err == (
        "jaxft: preparing 'tfds:oxford_flowers102' needs TensorFlow, which is not installed: "
        "pip install 'jaxft[tfds-prepare]'.\n"
    )


def test_a_failed_preparation_is_one_sentence_below_the_error_of_tfds(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: object())
    assert main(["data", "prepare", "tfds:no_such_set", "--dir", str(tmp_path)]) == 2
    err = capfd.readouterr().err
    assert err.splitlines()[-1].startswith("jaxft: 'tfds:no_such_set' could not be prepared in ")
    assert "DatasetNotFoundError" in err
