"""Labels and file names as tables, Parquet files and arrays have them."""

import json

import numpy as np
import pyarrow as pa
import pytest
from data.test_data import PICTURES, png, write_folder, write_npz, write_zip
from data.test_readers import write_table
from pyarrow import parquet

from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.data import load_images
from jaxft.data.readers.columns import class_name_of, in_numeric_order

FILES = tuple(PICTURES)[:4]


def with_labels(path, labels):
    """Writes a table of one image for each label, with the images next to it, and returns the image set."""
    write_folder(path.parent, {f"{i}.png": png(i) for i in range(len(labels))})
    rows = [{"file": f"{i}.png", "label": label} for i, label in enumerate(labels)]
    return load_images(Images(data=write_table(path, rows)), 4)


def images_inside(path, labels):
    """Writes a Parquet file with images inside, one for each label, and returns the image set."""
    table = pa.table({"image": [{"bytes": png(i), "path": None} for i in range(len(labels))], "label": labels})
    parquet.write_table(table, path)
    return load_images(Images(data=str(path)), 4)


LABELS = [
    ([True, False, True], ("False", "True"), [1, 0, 1]),
    ([10, 2, 1], ("1", "2", "10"), [2, 1, 0]),
    ([1, -1, 1], ("-1", "1"), [1, 0, 1]),
    ([-1, 10, 2], ("-1", "2", "10"), [0, 2, 1]),
    ([10.0, 2.0, 1.0], ("1", "2", "10"), [2, 1, 0]),
    (["dog ", " cat", "dog"], ("cat", "dog"), [1, 0, 1]),
    (["0.5", "b", "0.5"], ("0.5", "b"), [0, 1, 0]),
]
NAMES = ["booleans", "integers", "minus_one", "negative", "whole_floats", "blanks", "text"]


@pytest.mark.parametrize(("labels", "class_names", "numbers"), LABELS, ids=NAMES)
@pytest.mark.parametrize("write", ["jsonl", "parquet", "inside"])
def test_labels(tmp_path, labels, class_names, numbers, write):
    if write == "inside":
        found = images_inside(tmp_path / "a.parquet", labels)
    else:
        found = with_labels(tmp_path / f"a.{write}", labels)
    assert found.class_names == class_names and found.labels.tolist() == numbers


@pytest.mark.parametrize(
    ("labels", "class_names", "numbers"),
    [
        (["1", "-1", "10"], ("-1", "1", "10"), [1, 0, 2]),
        (["dog ", " cat", "dog\t"], ("cat", "dog"), [1, 0, 1]),
        (["true", "false", "true"], ("false", "true"), [1, 0, 1]),
    ],
)
def test_labels_in_csv(tmp_path, labels, class_names, numbers):
    found = with_labels(tmp_path / "a.csv", labels)
    assert found.class_names == class_names and found.labels.tolist() == numbers


@pytest.mark.parametrize("label", [["cat"], {"name": "cat"}, []])
@pytest.mark.parametrize("write", ["jsonl", "inside"])
def test_a_list_as_a_label_is_an_error(tmp_path, label, write):
    if write == "inside" and not isinstance(label, list):
        pytest.skip("a column has one type")
    labels = [label, label]
    with pytest.raises(UserError, match=r"has the class .* in row 1; a class must be a name or a number\."):
        if write == "inside":
            images_inside(tmp_path / "a.parquet", labels)
        else:
            with_labels(tmp_path / "a.jsonl", labels)


def test_class_names_by_hand():
    values = [None, "  ", float("nan"), b"x", [1], 1.0, 1.5, True, -0.0, " a b "]
    assert [class_name_of(value) for value in values] == [None] * 5 + ["1", "1.5", "True", "0", "a b"]
    assert in_numeric_order(["10", "-2", "9", "10"]) == ("-2", "9", "10")
    assert in_numeric_order(["1", "01"]) == ("01", "1")
    assert in_numeric_order(["1", "x"]) is None and in_numeric_order([]) is None and in_numeric_order(["True"]) is None


def test_a_blank_label_and_a_blank_file_are_named(tmp_path):
    write_folder(tmp_path, PICTURES)
    for row, message in (
        ({"file": FILES[0], "label": " "}, "no class in row 2"),
        ({"file": " ", "label": "a"}, "no file"),
    ):
        with pytest.raises(UserError, match=message):
            load_images(Images(data=write_table(tmp_path / "a.jsonl", [{"file": FILES[1], "label": "a"}, row])), 4)


# --- names of files ---------------------------------------------------------------------------------------------


def rows_of(change, column="file"):
    return [{column: change(name), "label": name.split("/")[0]} for name in PICTURES]


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("/", "\\"),
        lambda name: name.removesuffix(".png"),
        lambda name: name.replace("/", "\\").removesuffix(".png"),
        lambda name: f".\\{name}".replace("/", "\\"),
    ],
    ids=["backslashes", "no_suffix", "both", "current_folder"],
)
def test_files_of_a_table_are_found(tmp_path, change):
    data = write_folder(tmp_path / "pets", PICTURES)
    (tmp_path / "pets/cat/notes.txt").write_text("x")
    expected = load_images(Images(data=write_table(tmp_path / "pets/plain.csv", rows_of(str))), 4)
    found = load_images(Images(data=write_table(tmp_path / "pets/a.csv", rows_of(change))), 4)
    assert found.ids == expected.ids == tuple(PICTURES) and found.fingerprint == expected.fingerprint
    write_table(tmp_path / "pets/metadata.jsonl", rows_of(change, "file_name"))
    assert load_images(Images(data=data), 4).fingerprint == expected.fingerprint


def test_a_zip_archive_with_a_table_and_backslashes(tmp_path):
    table = "".join(json.dumps(row) + "\n" for row in rows_of(lambda name: name.replace("/", "\\"), "file_name"))
    files = {f"pets\\{name}".replace("/", "\\"): content for name, content in PICTURES.items()}
    data = write_zip(tmp_path / "a.zip", files | {"pets\\metadata.jsonl": table.encode()})
    found = load_images(Images(data=data), 4)
    assert found.ids == tuple(f"pets/{name}" for name in PICTURES) and found.class_names == ("cat", "dog", "eel")


def test_a_column_of_ids_names_the_files(tmp_path):
    write_folder(tmp_path, {f"{i}.jpg": png(i) for i in range(4)})
    rows = [{"id": i, "label": "ab"[i % 2]} for i in range(4)]
    assert load_images(Images(data=write_table(tmp_path / "a.parquet", rows)), 4).ids == tuple(
        f"{i}.jpg" for i in range(4)
    )


def test_an_id_of_two_files_is_an_error(tmp_path):
    write_folder(tmp_path, {"a.png": png(1), "a.jpg": png(1), "b.png": png(2)})
    rows = [{"file": "b", "label": "x"}, {"file": "a", "label": "y"}]
    with pytest.raises(UserError, match=r"list\.csv' has 'a' in row 2, which may be a\.jpg, a\.png\."):
        load_images(Images(data=write_table(tmp_path / "list.csv", rows)), 4)


def test_splits_of_a_table_have_common_names(tmp_path):
    write_folder(tmp_path, PICTURES)
    parts = ("Training", "test_set", "dev ", "train")
    rows = [{"file": name, "label": name[:3], "split": parts[i % 4]} for i, name in enumerate(PICTURES)]
    found = load_images(Images(data=write_table(tmp_path / "a.csv", rows)), 4)
    assert found.subsets.tolist() == ["train", "test", "val", "train"] * 3


# --- arrays -----------------------------------------------------------------------------------------------------

GRAY = np.zeros((3, 2, 2), np.uint8)


def test_npz_labels_may_be_a_column(tmp_path):
    found = load_images(Images(data=write_npz(tmp_path / "a.npz", images=GRAY, labels=np.array([[1], [0], [1]]))), None)
    assert found.labels.tolist() == [1, 0, 1]


def test_negative_npz_labels_are_classes(tmp_path):
    found = load_images(Images(data=write_npz(tmp_path / "a.npz", images=GRAY, labels=np.array([1, -1, 1]))), None)
    assert found.class_names == ("-1", "1") and found.labels.tolist() == [1, 0, 1]


def test_blanks_around_npz_class_names_are_removed(tmp_path):
    names = np.array([" cat", "dog "])
    data = write_npz(tmp_path / "a.npz", images=GRAY, labels=np.array([1, 0, 1]), class_names=names)
    assert load_images(Images(data=data), None).class_names == ("cat", "dog")
