"""Layouts of class folders: what is a class, a split or a domain, and which layouts are refused."""

import itertools
from pathlib import PurePosixPath

import pytest

from jaxft.data.readers.file_names import meaning_of, mentions_split
from jaxft.data.readers.layout import LayoutError, find_layout


def layout_of(*names, bare=()):
    """Returns the layout of files by their name; the name of a folder, `FOLDER/`, stands for three images in it."""
    files = [f"{name}{i}.png" for name in names for i in range(3)] if names[0].endswith("/") else names
    return find_layout([PurePosixPath(name) for name in files], [PurePosixPath(name) for name in bare])


def places(layout):
    """Returns the distinct (class, split, domain)."""
    return sorted({(p.class_name, p.subset, p.domain) for p in layout.images if p is not None})


@pytest.mark.parametrize(
    ("meaning", "names"),
    [
        ("train", "train Training TRAIN training_set train_set seg_train images_train train-images trainset train2017"),
        ("val", "val valid validation dev eval Validation_Set val_images val2017"),
        ("test", "test Testing testing test_set seg_test images_test test-data testset"),
        ("unlabeled", "unlabeled seg_pred pred prediction"),
        ("", "cat bullet_train train_station test_tube signs_train value evaluate latest photo set images data t v2"),
    ],
)
def test_common_names_of_splits_are_recognized(meaning, names):
    assert {name: meaning_of(name) for name in names.split()} == dict.fromkeys(names.split(), meaning)


def test_a_name_that_mentions_a_split_is_noticed():
    assert [name for name in ("signs_train", "latest", "photo", "test v1", "trains") if mentions_split(name)] == [
        "signs_train",
        "test v1",
    ]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ("cat/ dog/", [("cat", "", ""), ("dog", "", "")]),
        ("training_set/cat/ test_set/cat/", [("cat", "test", ""), ("cat", "train", "")]),
        ("Training/cat/ Testing/dog/", [("cat", "train", ""), ("dog", "test", "")]),
        ("train/cat/ validation/cat/", [("cat", "train", ""), ("cat", "val", "")]),
        ("train/cat/ dev/cat/ test/cat/", [("cat", "test", ""), ("cat", "train", ""), ("cat", "val", "")]),
        ("seg_train/seg_train/sea/ seg_test/seg_test/sea/", [("sea", "test", ""), ("sea", "train", "")]),
        ("train/train/sea/ test/test/sea/", [("sea", "test", ""), ("sea", "train", "")]),
        ("images_train/cat/ images_test/cat/", [("cat", "test", ""), ("cat", "train", "")]),
        ("data/v1/train/cat/ data/v1/test/cat/", [("cat", "test", ""), ("cat", "train", "")]),
        ("test_data/train/cat/ test_data/test/cat/", [("cat", "test", ""), ("cat", "train", "")]),
        ("cat/train/ cat/test/ dog/train/", [("cat", "test", ""), ("cat", "train", ""), ("dog", "train", "")]),
        ("photo/cat/ sketch/cat/", [("cat", "", "photo"), ("cat", "", "sketch")]),
        ("photo/train/cat/ photo/test/cat/", [("cat", "test", ""), ("cat", "train", "")]),  # photo contains everything
        ("photo/train/a/ sketch/test/a/", [("a", "test", "sketch"), ("a", "train", "photo")]),
        ("bus/ car/ train/", [("bus", "", ""), ("car", "", ""), ("train", "", "")]),
        ("train/test/ train/cat/ test/test/", [("cat", "train", ""), ("test", "test", ""), ("test", "train", "")]),
        ("photo/cat/ photo/test/ sketch/cat/", [("cat", "", "photo"), ("cat", "", "sketch"), ("test", "", "photo")]),
    ],
)
def test_layouts(folders, expected):
    assert places(layout_of(*folders.split())) == expected


def test_the_order_of_the_names_does_not_matter():
    names = ["train/cat/1.png", "train/dog/1.png", "test/1.png", "test/cat/2.png"]
    messages = set()
    for order in itertools.permutations(names):
        with pytest.raises(LayoutError) as error:
            layout_of(*order)
        messages.add(str(error.value))
    assert len(messages) == 1 and "has the image 'test/1.png' outside of the layout split/class/image" in messages.pop()


def test_images_in_a_test_folder_without_classes_are_passed_over():
    layout = layout_of("train/cat/", "train/dog/", "test/", "seg_pred/seg_pred/")
    assert places(layout) == [("cat", "train", ""), ("dog", "train", "")]
    assert layout.unlabeled == {"seg_pred": 3, "test": 3}


def test_the_description_names_folders_and_splits():
    layout = layout_of(*(f"{top}/{name}/" for top in ("training_set", "test") for name in "abcdefgh"))
    assert str(layout) == "classes a, b, c, d, e, f and 2 more; splits test, training_set (train)"
    assert str(layout_of("photo/cat/", "sketch/cat/")) == "classes cat; domains photo, sketch"


@pytest.mark.parametrize(
    ("names", "spoiling", "layout"),
    [
        ("train/cat/1.jpg train/dog/1.jpg train/dog/2.jpg train/x.jpg", "train/x.jpg", "split/class/image of 3 of"),
        ("cat/1.jpg cat/2.jpg dog/1.jpg dog/sub/x.jpg", "dog/sub/x.jpg", "class/image of 3 of"),
        ("cat/train/1.jpg cat/test/1.jpg dog/train/1.jpg dog/x.jpg", "dog/x.jpg", "class/split/image of 3 of"),
        ("train/cat/1.jpg test/cat/1.jpg extra/cat/x.jpg", "extra/cat/x.jpg", "split/class/image of 2 of"),
        ("photo/cat/1.jpg photo/dog/1.jpg art/cat/1.jpg test/cat/x.jpg", "test/cat/x.jpg", "domain/class/image of 3"),
        ("a/train/cat/1.jpg a/test/cat/1.jpg b/train/cat/1.jpg b/x/cat/x.jpg", "b/x/cat/x.jpg", "domain/split/class"),
        ("pets/cat/1.jpg pets/dog/1.jpg pets/dog/2/x.jpg", "dog/2/x.jpg", "class/image of 2 of"),
    ],
)
def test_the_image_that_spoils_the_layout_is_named(names, spoiling, layout):
    with pytest.raises(LayoutError) as error:
        layout_of(*names.split())
    assert f"has the image '{spoiling}' outside of the layout {layout}" in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("names", ["x.jpg cat/1.jpg dog/1.jpg", "pets/x.jpg pets/cat/1.jpg pets/dog/1.jpg"])
def test_an_image_in_no_folder_is_named(names):
    with pytest.raises(LayoutError, match=r"has 1 image in no class folder, such as '(pets/)?x\.jpg', and 2 images"):
        layout_of(*names.split())


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("train/ test/", "has images without a class: 'test/0.png' is directly in the split 'test'"),
        ("train/ test/cat/", "training images without a class, such as 'train/0.png'"),
        ("pets/", None),
        ("train/cat/ training/cat/ test/cat/", "two folders for the split 'train', 'train' and 'training'; merge them"),
        ("train/a/ validation/a/ evaluation/a/", "two folders for the split 'val', 'evaluation' and 'validation'"),
    ],
)
def test_folders_without_classes_are_refused(folders, message):
    if message is None:
        assert places(layout_of(folders)) == [("pets", "", "")]
        return
    with pytest.raises(LayoutError) as error:
        layout_of(*folders.split())
    assert message in str(error.value)


def test_images_in_one_folder_are_refused():
    with pytest.raises(LayoutError, match=r"has no class folders: its images, such as '1\.png', are in one folder"):
        layout_of("1.png", "2.png")


@pytest.mark.parametrize(
    ("folders", "names", "readings"),
    [
        ("bus/ test/ train/", "'test', 'train'", ("class/image", "split/image")),
        ("cat/train/ cat/test/ cat/extra/ dog/train/", "'test', 'train'", ("domain/class/image", "class/split/image")),
        ("signs_train/a/ signs_test/a/", "'signs_test', 'signs_train'", ("domain/class/image", "split/class/image")),
        ("train/test/ train/val/ test/val/", "'test', 'train'", ("split/class/image", "class/split/image")),
    ],
)
def test_both_readings_of_an_ambiguous_layout_are_shown(folders, names, readings):
    with pytest.raises(LayoutError) as error:
        layout_of(*folders.split())
    assert f"with the folders {names} as {readings[0]} or as {readings[1]};" in str(error.value)


@pytest.mark.parametrize(
    ("folders", "bare", "empty"),
    [
        ("cat/ dog/", "eel cat/sub", ("eel",)),
        ("pets/cat/ pets/dog/", "pets/eel other", ("eel",)),
        ("train/cat/ test/cat/", "train/dog test/eel/sub notes val", ("test/eel", "train/dog", "val")),
        ("a/train/cat/ b/train/cat/", "a/train/eel a/other/x", ("a/train/eel",)),
        ("photo/cat/ art/cat/", "photo/eel", ("photo/eel",)),
    ],
)
def test_class_folders_without_images_are_listed(folders, bare, empty):
    assert layout_of(*folders.split(), bare=bare.split()).empty == empty
