"""Readers: layouts of folders, archives and tables, IDX and CIFAR files, and unusable images."""

import csv
import gzip
import io
import json
import os
import struct
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data.test_data import PICTURES, png, write_folder, write_zip
from PIL import Image
from pyarrow import parquet

from jaxft.config import Images, Study, from_dict
from jaxft.core.errors import UserError
from jaxft.data import load_images
from jaxft.data.readers import archives, image_set, image_sets, pictures
from jaxft.data.readers.arrays import SubsetArrays, join_subsets
from jaxft.data.readers.listing import spellings
from jaxft.data.readers.registry import READERS
from jaxft.study.plan import make_plan


def write_tar(path, files, mode="w"):
    """Writes {name: bytes} into a tar archive and returns its path as text."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def write_table(path, rows):
    """Writes rows of equal keys as the table that the path's suffix says, and returns its path as text."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def same(one, other):
    """Returns whether two image sets have equal images, classes, splits and names."""
    return (
        np.array_equal(one.images, other.images)
        and one.labels.tolist() == other.labels.tolist()
        and (one.class_names, one.ids) == (other.class_names, other.ids)
        and one.subsets.tolist() == other.subsets.tolist()
    )


# --- fingerprints -----------------------------------------------------------------------------------------------


def test_fingerprints_have_their_recorded_values(tmp_path):
    # Of 0.1.0 as first released: trials are known by them, so that what is stored is found again.
    assert load_images(Images(), None).fingerprint == "435ddab5af78cc0e9d86a7700f7ea026"
    assert load_images(Images(), 16).fingerprint == "67fcbd84a466ef03d12704821736e85d"
    assert load_images(Images(classes=("3", "8")), None).fingerprint == "a1f32705ec72659abb8fd848d578a155"
    arrays = {"train_images": np.zeros((2, 3, 3), np.uint8), "train_labels": np.array([0, 1])}
    np.savez(tmp_path / "a.npz", **arrays)
    assert load_images(Images(data=str(tmp_path / "a.npz")), None).fingerprint == "0e0b963b12a12ef07698c93140bad9e3"
    ppm = b"P6 2 2 255\n" + bytes(range(12))
    data = write_folder(tmp_path / "f", {"a/1.ppm": ppm, "a/2.ppm": ppm[:-1] + b"\0", "b/1.ppm": ppm[:-2] + b"\0\0"})
    assert load_images(Images(data=data), 4).fingerprint == "1c1948ffabaabd77a9c58b98a806fb57"


def test_selected_classes_of_a_large_set_are_a_memory_map(monkeypatch):
    few = load_images(Images(classes=("3", "8")), None)
    monkeypatch.setattr(image_set, "MAX_UNCACHED_BYTES", 1000)
    on_disk = load_images(Images(classes=("3", "8")), None)
    assert isinstance(on_disk.images, np.memmap) and not isinstance(few.images, np.memmap)
    assert same(on_disk, few) and on_disk.fingerprint == few.fingerprint


def test_channel_statistics_agree_with_numpy(monkeypatch):
    monkeypatch.setattr(image_set, "STATISTICS_BLOCK", 7)
    images = np.random.default_rng(0).integers(0, 256, (30, 5, 5, 3), np.uint8)
    rows = np.array([3, 9, 4, 28, 0, 11, 12, 13, 14])
    mean, std = image_set.channel_statistics(images, rows)
    pixels = images[rows] / 255
    assert np.allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12) and np.allclose(std, pixels.std((0, 1, 2)), rtol=1e-12)


# --- archives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_archive_equals_its_folder(tmp_path, mode):
    files = {f"train/{name}": content for name, content in PICTURES.items()} | {"test/cat/new.png": png(7)}
    folder = load_images(Images(data=write_folder(tmp_path / "folder", files)), 4)
    names = {f"./pets/{name}": content for name, content in reversed(files.items())}
    archive = load_images(Images(data=write_tar(tmp_path / "pets.any", names, mode)), 4)
    assert same(archive, folder) and archive.fingerprint == folder.fingerprint


def test_a_tar_archive_writes_no_file_and_follows_no_link(tmp_path, monkeypatch):
    path = tmp_path / "evil.tar"
    write_tar(path, PICTURES | {"../outside/x.png": png(1), "/etc/absolute.png": png(2)})
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"cat/{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(
        UserError, match=r"has the image '/etc/absolute\.png' outside of the layout class/image of 12 of its 13"
    ):
        load_images(Images(data=str(path)), 4)
    names = {str(name) for name, _ in archives.members_of(path)}
    assert names == {*PICTURES, "../outside/x.png", "/etc/absolute.png"}
    assert set(tmp_path.rglob("*")) == before


def test_the_last_file_of_a_name_counts(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for gray in (10, 20):
            for name, content in (("cat/0.png", png(gray)), ("dog/0.png", png(gray + 1))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    found = load_images(Images(data=str(tmp_path / "a.tar")), 4)
    assert found.ids == ("cat/0.png", "dog/0.png") and found.images[:, 0, 0, 0].tolist() == [20, 21]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_cut_tar_archive_is_one_sentence(tmp_path, mode):
    content = Path(write_tar(tmp_path / "a.tar", PICTURES, mode)).read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2] if mode == "w:gz" else content[:700])
    with pytest.raises(UserError, match=r"cut\.tar' "):
        load_images(Images(data=str(tmp_path / "cut.tar")), 4)


def test_a_too_large_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFT_MAX_BYTES", "1000")
    files = PICTURES | {"cat/large.png": bytes(1001)}
    for data in (
        write_folder(tmp_path / "f", files),
        write_zip(tmp_path / "a.zip", files),
        write_tar(tmp_path / "a.tar", files),
    ):
        with pytest.raises(
            UserError, match=r"1 unusable image: 'cat/large\.png' \(it has 1,001 bytes, more than 1,000 \(--max-bytes"
        ):
            load_images(Images(data=data), 4)


def test_linked_folders_are_followed_and_loops_are_not(tmp_path):
    write_folder(tmp_path / "store", PICTURES)
    (tmp_path / "pets/train").mkdir(parents=True)
    for name in ("cat", "dog"):
        (tmp_path / "pets/train" / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "store/cat/up").symlink_to(tmp_path / "pets")
    (tmp_path / "store/cat/self").symlink_to(tmp_path / "store/cat")
    names = sorted(str(name) for name, _ in archives.members_of(tmp_path / "pets"))
    assert [name for name in names if "/up/" not in name] == sorted(
        f"train/{name}" for name in PICTURES if not name.startswith("eel")
    )
    assert len(names) < 50


def test_a_broken_link_is_named(tmp_path):
    data = write_folder(tmp_path / "pets", PICTURES)
    (tmp_path / "pets/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"'cat/gone\.png' \(the file does not exist\)"):
        load_images(Images(data=data), 4)


def test_a_file_name_may_have_invalid_utf8(tmp_path):
    data = write_folder(tmp_path / "pets", PICTURES)
    try:
        Path(os.fsdecode(os.fsencode(data) + b"/cat/\xff\xfe.png")).write_bytes(png(9))
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    assert len(load_images(Images(data=data), 4).images) == 13


# --- domains ----------------------------------------------------------------------------------------------------

DOMAINS = {
    f"{domain}/{part}/{name}": png(100 * i + 50 * j + k)
    for i, domain in enumerate(("photo", "sketch"))
    for j, part in enumerate(("train", "test"))
    for k, name in enumerate(("cat/1.png", "dog/1.png"))
}


def test_domains_are_folders_around_the_splits(tmp_path):
    data = write_folder(tmp_path, DOMAINS)
    everything = load_images(Images(data=data), 4)
    assert everything.ids == tuple(sorted(DOMAINS)) and everything.class_names == ("cat", "dog")
    sketch = load_images(Images(data=data, domain="sketch"), 4)
    assert sketch.ids == tuple(name for name in sorted(DOMAINS) if name.startswith("sketch"))
    assert sketch.subsets.tolist() == ["test", "test", "train", "train"]
    assert sketch.images[:, 0, 0, 0].tolist() == [150, 151, 100, 101]
    both = load_images(Images(data=data, domain=("photo", "sketch")), 4)
    assert same(both, everything) and both.fingerprint == everything.fingerprint != sketch.fingerprint


def test_domains_without_splits(tmp_path):
    files = {name.replace("/train", ""): content for name, content in DOMAINS.items() if "/train" in name}
    found = load_images(Images(data=write_folder(tmp_path, files), domain=("photo",)), 4)
    assert found.ids == ("photo/cat/1.png", "photo/dog/1.png") and found.subsets.tolist() == ["", ""]


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ("foto", r"has no domain 'foto' \(did you mean 'photo'\?\); its domains are photo, sketch\."),
        ((), "'domain' of .* is empty"),
    ],
)
def test_an_unknown_domain_is_named(tmp_path, domain, message):
    with pytest.raises(UserError, match=message):
        load_images(Images(data=write_folder(tmp_path, DOMAINS), domain=domain), 4)


def test_a_domain_is_an_error_for_images_without_domains():
    with pytest.raises(UserError, match="'digits' has no domain 'photo'; it has no domains"):
        load_images(Images(domain="photo"), None)


def test_pacs_has_four_domains(real_data):
    found = load_images(Images(data=str(real_data / "images/pacs-7x4.zip"), domain="cartoon"), 8)
    assert len(found.images) == 7 * 30 and found.class_names == (
        "dog", "elephant", "giraffe", "guitar", "horse", "house", "person",
    )  # fmt: skip
    assert {part: int((found.subsets == part).sum()) for part in ("train", "test")} == {"train": 140, "test": 70}


# --- tables -----------------------------------------------------------------------------------------------------

ROWS = [{"file": name, "label": name.split("/")[0].upper()} for name in PICTURES]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_lists_files_and_classes(tmp_path, suffix):
    write_folder(tmp_path, PICTURES)
    data = write_table(tmp_path / f"list{suffix}", ROWS[::-1])
    found = load_images(Images(data=data), 4)
    folder = load_images(Images(data=write_folder(tmp_path / "plain", PICTURES)), 4)
    assert found.class_names == ("CAT", "DOG", "EEL") and found.ids == folder.ids
    assert (found.images == folder.images).all() and (found.labels == folder.labels).all()


def test_a_table_has_splits_domains_and_other_labels(tmp_path):
    write_folder(tmp_path, PICTURES)
    rows = [
        {"path": name, "class": name[:3], "kind": "fish" if name[0] == "e" else "pet", "split": part, "domain": "d"}
        for name, part in zip(PICTURES, ["train", "train", "valid", "test"] * 3)
    ]
    data = write_table(tmp_path / "list.csv", rows)
    found = load_images(Images(data=data, label="kind", domain="d"), 4)
    assert found.class_names == ("fish", "pet") and found.subsets[:4].tolist() == ["train", "train", "val", "test"]
    assert load_images(Images(data=data), 4).class_names == ("cat", "dog", "eel")


def test_integer_labels_keep_their_order(tmp_path):
    write_folder(tmp_path, PICTURES)
    rows = [{"file": name, "label": i} for i, name in enumerate(PICTURES)]
    for suffix in (".csv", ".parquet"):
        found = load_images(Images(data=write_table(tmp_path / f"list{suffix}", rows)), 4)
        assert found.class_names == tuple(map(str, range(12)))


def test_a_changed_class_in_a_table_changes_the_fingerprint(tmp_path):
    write_folder(tmp_path, PICTURES)
    before = load_images(Images(data=write_table(tmp_path / "a.csv", ROWS)), 4)
    changed = [ROWS[0] | {"label": "DOG"}, *ROWS[1:]]
    assert load_images(Images(data=write_table(tmp_path / "a.csv", changed)), 4).fingerprint != before.fingerprint


def test_a_file_outside_of_the_tables_folder(tmp_path):
    write_folder(tmp_path / "pictures", PICTURES)
    (tmp_path / "lists").mkdir()
    rows = [{"file": f"../pictures/{row['file']}", "label": row["label"]} for row in ROWS]
    rows[0]["file"] = str(tmp_path / "pictures/cat/0.png")
    assert len(load_images(Images(data=write_table(tmp_path / "lists/a.csv", rows)), 4).images) == 12


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"image": "a.png", "label": "a"}],
            "needs a column 'file' or 'file_name' or 'filename' or 'path' and a column 'label'",
        ),
        ([{"file": "a.png", "name": "a"}], "and a column 'label' or 'class'; its columns are file, name"),
        ([{"file": "cat/0.png", "label": ""}], "has no class in row 1"),
        ([*ROWS, {"file": "", "label": "CAT"}], "has no file in row 13"),
        ([*ROWS, {"file": "cat/0.png", "label": "DOG"}], "lists 'cat/0.png' twice, with the classes 'CAT' and 'DOG'"),
        (
            [*ROWS, {"file": "cat/9.png", "label": "CAT"}],
            "1 unusable image: 'cat/9.png' (the file does not exist)",
        ),
        (
            [{"file": "cat/0.png", "label": "a", "part": "tset"}],
            "has the split 'tset' in row 1; allowed: train, val and test",
        ),
    ],
    ids=["no_file_column", "no_label_column", "no_label", "no_file", "twice", "missing", "part"],
)
def test_a_wrong_table_is_one_sentence(tmp_path, rows, message):
    write_folder(tmp_path, PICTURES)
    with pytest.raises(UserError) as error:
        load_images(Images(data=write_table(tmp_path / "list.csv", rows)), 4)
    assert message in str(error.value) and "list.csv" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "content"), [("a.csv", b"\xff\xfe\0"), ("a.jsonl", b"{"), ("a.parquet", b"PAR1")])
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}' cannot be read as"):
        load_images(Images(data=str(tmp_path / name)), 4)


def test_an_unknown_label_is_named(tmp_path):
    with pytest.raises(UserError, match="has no label 'color': its classes are the names of its folders"):
        load_images(Images(data=write_folder(tmp_path, PICTURES), label="color"), 4)
    with pytest.raises(UserError, match="'digits' has no label 'color'"):
        load_images(Images(label="color"), 4)


# --- Hugging Face's layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_an_imagefolder_with_metadata(tmp_path, suffix, write):
    files = {}
    for part in ("train", "test"):
        rows = [{"file_name": f"{i}.png", "label": "ab"[i % 2]} for i in range(4)]
        files |= {f"{part}/{i}.png": png(10 * i + (part == "test")) for i in range(4)}
        files[f"{part}/metadata{suffix}"] = Path(write_table(tmp_path / f"t{suffix}", rows)).read_bytes()
    found = load_images(Images(data=write(tmp_path / ("d.zip" if write is write_zip else "d"), files)), 4)
    assert found.class_names == ("a", "b") and found.ids == tuple(sorted(n for n in files if n.endswith("png")))
    assert found.subsets.tolist() == ["test"] * 4 + ["train"] * 4
    assert found.images[:, 0, 0, 0].tolist() == [1, 11, 21, 31, 0, 10, 20, 30]


def test_folders_are_the_classes_if_metadata_has_no_classes(tmp_path):
    files = PICTURES | {"metadata.csv": b"file_name,text\ncat/0.png,a cat\n"}
    assert load_images(Images(data=write_folder(tmp_path, files)), 4).class_names == ("cat", "dog", "eel")


def hugging_face(path, part, rows, names, image="image", label="label", groups=2):
    """Writes a Parquet file as Hugging Face's `datasets` does."""
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    pictures = pa.array([{"bytes": content, "path": None} for content, _ in rows],
                        pa.struct([("bytes", pa.binary()), ("path", pa.string())]))  # fmt: skip
    table = pa.table({image: pictures, label: pa.array([number for _, number in rows], pa.int64())})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path / part, row_group_size=groups)


@pytest.mark.parametrize("names", ["train-{:05d}-of-00002.parquet", "default/train/{:04d}.parquet"])
def test_parquet_files_with_images(tmp_path, names):
    first, second = [(png(i), i % 2) for i in range(5)], [(png(10 + i), 1) for i in range(3)]
    for number, rows in enumerate((first, second)):
        place = tmp_path / "data" / names.format(number)
        hugging_face(place.parent, place.name, rows, ["zebra", "ant"])
    place = tmp_path / "data" / names.format(0).replace("train", "test")
    hugging_face(place.parent, place.name, [(png(99), 0)], ["zebra", "ant"])
    found = load_images(Images(data=str(tmp_path)), 4)
    assert found.class_names == ("zebra", "ant")  # as declared
    assert sorted(found.images[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4, 10, 11, 12, 99]
    assert found.images[found.subsets == "test"][0, 0, 0, 0] == 99
    assert found.labels[found.subsets == "train"].tolist() == [0, 1, 0, 1, 0, 1, 1, 1]


def test_one_parquet_file_and_other_columns(tmp_path):
    hugging_face(tmp_path, "some.parquet", [(png(i), i % 2) for i in range(4)], ["a", "b"], "img", "fine_label")
    found = load_images(Images(data=str(tmp_path / "some.parquet")), 4)
    assert found.class_names == ("a", "b") and found.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="has no column 'coarse'; its columns are img, fine_label"):
        load_images(Images(data=str(tmp_path / "some.parquet"), label="coarse"), 4)


def test_a_row_without_an_image_is_named(tmp_path):
    hugging_face(tmp_path, "some.parquet", [(png(1), 0), (None, 1), (b"hello", 1)], ["a", "b"])
    with pytest.raises(UserError, match=r"2 unusable images: 'some\.parquet:1' \(the row has no image\), 'some"):
        load_images(Images(data=str(tmp_path)), 4)


# --- IDX and CIFAR ----------------------------------------------------------------------------------------------


def idx(array):
    """Returns an array of uint8 as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


TRAIN = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
MNIST = {
    "train-images-idx3-ubyte": idx(TRAIN),
    "train-labels-idx1-ubyte": idx(np.array([0, 2, 1])),
    "t10k-images-idx3-ubyte": idx(TRAIN[:2] + 100),
    "t10k-labels-idx1-ubyte": idx(np.array([2, 2])),
}


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path, packed):
    files = {f"{n}.gz": gzip.compress(c) for n, c in MNIST.items()} if packed else MNIST
    found = load_images(Images(data=write_folder(tmp_path, files)), None)
    assert found.class_names == ("0", "1", "2") and found.labels.tolist() == [2, 2, 0, 2, 1]
    assert found.subsets.tolist() == ["test"] * 2 + ["train"] * 3
    assert (found.images[2:, :, :, 1] == TRAIN[:, :, :4]).all()  # the shorter side is 4; of 5 columns the first are cut


def test_idx_files_with_names(tmp_path):
    data = write_zip(
        tmp_path / "a.zip", {f"mnist/{n}": c for n, c in (MNIST | {"class_names.txt": b"a\nb\nc\n"}).items()}
    )
    assert load_images(Images(data=data), None).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", idx(TRAIN)[:-1], "59 values for the shape [3, 4, 5]"),
        ("train-images-idx3-ubyte", idx(TRAIN[0]), "it starts with 00000802 instead of 00000803"),
        ("train-images-idx3-ubyte", b"", "cannot be read as an IDX file"),
        ("train-labels-idx1-ubyte", idx(np.array([0, 1])), "3 images in 'train-images-idx3-ubyte', but 2 labels"),
        ("train-labels-idx1-ubyte", None, "no label file 'train-labels-idx1-ubyte'"),
        ("t10k-images-idx3-ubyte", idx(TRAIN[:2, :3]), "images of different sizes"),
        ("emnist-train-images-idx3-ubyte", idx(TRAIN), "2 sets of IDX files, with the prefixes"),
        ("class_names.txt", b"a\nb\n", "labels from 0 to 2, but 2 class names"),
    ],
    ids=["short", "axes", "empty", "counts", "no_labels", "sizes", "sets", "names"],
)
def test_wrong_idx_files_are_one_sentence(tmp_path, name, content, message):
    files = {n: c for n, c in (MNIST | {name: content}).items() if c is not None}
    with pytest.raises(UserError) as error:
        load_images(Images(data=write_folder(tmp_path / "mnist", files)), None)
    assert message in str(error.value) and "mnist" in str(error.value)


def cifar(labels, pixels):
    """Returns CIFAR's binary records of labels [n, kinds] and pixels [n, 32, 32, 3]."""
    planes = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return np.concatenate([np.asarray(labels, np.uint8), planes], axis=1).tobytes()


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def test_cifar_10s_binary_files(tmp_path):
    files = {
        "cifar-10-batches-bin/data_batch_1.bin": cifar([[1], [0]], PIXELS[:2]),
        "cifar-10-batches-bin/test_batch.bin": cifar([[1]], PIXELS[2:]),
        "cifar-10-batches-bin/batches.meta.txt": b"airplane\nautomobile\n\n",
        "cifar-10-batches-bin/readme.html": b"",
    }
    for data in (write_folder(tmp_path / "c", files), write_tar(tmp_path / "cifar-10-binary.tar.gz", files, "w:gz")):
        found = load_images(Images(data=data), None)
        assert (found.images == PIXELS).all() and found.labels.tolist() == [1, 0, 1]
        assert found.class_names == ("airplane", "automobile") and found.subsets.tolist() == ["train", "train", "test"]


def test_cifar_100_has_fine_and_coarse_labels(tmp_path):
    files = {
        "train.bin": cifar([[0, 2], [1, 0]], PIXELS[:2]),
        "test.bin": cifar([[1, 1]], PIXELS[2:]),
        "fine_label_names.txt": b"apple\nbear\nbowl\n",
        "coarse_label_names.txt": b"food\nother\n",
    }
    data = write_folder(tmp_path, files)
    fine = load_images(Images(data=data), None)
    assert fine.class_names == ("apple", "bear", "bowl") and fine.labels.tolist() == [2, 0, 1]
    coarse = load_images(Images(data=data, label="coarse"), None)
    assert coarse.class_names == ("food", "other") and coarse.labels.tolist() == [0, 1, 1]
    assert (coarse.images == fine.images).all() and coarse.fingerprint != fine.fingerprint
    with pytest.raises(UserError, match="has no label 'medium'; it has 'coarse' and 'fine'"):
        load_images(Images(data=data, label="medium"), None)


def test_a_cut_cifar_file_is_one_sentence(tmp_path):
    files = {"train.bin": bytes(3073), "fine_label_names.txt": b"a\nb\n", "coarse_label_names.txt": b"c\n"}
    with pytest.raises(UserError, match=r"'train\.bin' in .* has 3,073 bytes, which is not a multiple of the 3,074"):
        load_images(Images(data=write_folder(tmp_path, files)), None)


# --- what cannot be used ----------------------------------------------------------------------------------------

BAD = {"cat/bad.png": b"hello", "dog/empty.png": b"", "eel/cut.png": png(5)[:40]}


def test_unusable_images_are_skipped_on_request(tmp_path):
    clean = load_images(Images(data=write_folder(tmp_path / "clean", PICTURES)), 4)
    data = write_folder(tmp_path / "mixed", PICTURES | BAD)
    found = load_images(Images(data=data, unreadable="skip"), 4)
    assert same(found, clean) and found.fingerprint == clean.fingerprint
    assert [name for name, _ in found.skipped] == sorted(BAD)
    assert dict(found.skipped)["dog/empty.png"] == "the file is empty"
    assert dict(found.skipped)["cat/bad.png"] == "the image format is unknown"
    assert clean.skipped == ()


def test_a_study_prints_the_skipped_images(tmp_path):
    data = write_folder(tmp_path, PICTURES | BAD)
    fields = {
        "seeds": 1,
        "target": {"data": data, "size_px": 8, "train_per_class": 1, "unreadable": "skip"},
        "training": {"initialization.start": "random", "schedule.epochs": 1.0, "batches.size": 3},
    }
    plan = make_plan(from_dict(Study, fields))
    warning = "skipped 3 image files of {!r} that cannot be used, such as 'cat/bad.png' (the image format is unknown)."
    assert plan.warnings == (warning.format(data),)


def test_the_path_and_skipped_images_do_not_enter_the_identity_of_a_trial(tmp_path):
    fields = {"size_px": 8, "train_per_class": 1}
    specs = [
        {"data": write_folder(tmp_path / "folder", PICTURES)},
        {"data": write_tar(tmp_path / "a.tar.gz", PICTURES, "w:gz")},
        {"data": write_zip(tmp_path / "a.zip", PICTURES | BAD), "unreadable": "skip"},
    ]
    training = {"initialization.start": "random", "schedule.epochs": 1.0, "batches.size": 3}
    studies = [{"seeds": 1, "target": fields | spec, "training": training} for spec in specs]
    assert len({make_plan(from_dict(Study, study)).trials[0].digest for study in studies}) == 1


def test_a_class_without_readable_images_is_left_out(tmp_path):
    data = write_folder(tmp_path, PICTURES | {"fox/1.png": b""})
    assert load_images(Images(data=data, unreadable="skip"), 4).class_names == ("cat", "dog", "eel")


def test_no_readable_image_is_an_error_even_with_skip(tmp_path):
    data = write_folder(tmp_path, {"cat/1.png": b"", "dog/1.png": b"x"})
    for policy in ("fail", "skip"):
        with pytest.raises(UserError, match="has 2 unusable images"):
            load_images(Images(data=data, unreadable=policy), 4)


def test_unreadable_images_are_remembered(tmp_path, monkeypatch):
    data = write_folder(tmp_path, PICTURES | BAD)
    with pytest.raises(UserError, match="3 unusable images") as first:
        load_images(Images(data=data), 4)
    monkeypatch.setattr(image_sets, "to_pixels", None)
    with pytest.raises(UserError, match="3 unusable images") as again:
        load_images(Images(data=data), 4)
    assert str(again.value) == str(first.value)
    assert len(load_images(Images(data=data, unreadable="skip"), 4).images) == 12


CAFE = tuple(unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("usual", "rare"), [("Cow", "cow"), CAFE, ("ice_cream", "ice cream")], ids=["case", "unicode", "space"]
)
def test_two_spellings_of_a_class(tmp_path, usual, rare):
    files = PICTURES | {f"{usual}/{i}.png": png(i) for i in range(10, 16)} | {f"{rare}/x.png": png(1)}
    data = write_zip(tmp_path / "a.zip", files)
    with pytest.raises(
        UserError, match=r"has a class with several spellings: .* \(6 images\) and .* \(1 image\); rename one"
    ):
        load_images(Images(data=data), 4)
    found = load_images(Images(data=data, unreadable="skip"), 4)
    assert usual in found.class_names and rare not in found.class_names
    assert [name for name, _ in found.skipped] == [f"{rare}/x.png"]


def test_spellings_by_hand():
    assert spellings({"a": 1, "A": 2, "t-shirt": 3, "T shirt": 4, "dog": 1}) == [["T shirt", "t-shirt"]]
    assert spellings({"b": 1, "c": 2}) == []


def test_the_file_and_the_pixels_of_an_image_are_equal(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    assert (pictures.to_pixels(pixels, 3) == pictures.to_pixels(content.getvalue(), 3)).all()
    gray = pictures.to_pixels(pixels[..., :1], 3)
    assert (gray == pictures.to_pixels(pixels[..., 0], 3)).all() and (gray[..., 0] == gray[..., 2]).all()


# --- the seam ---


@pytest.fixture
def one_file_reader():
    """A reader of folders with a file `pixels.raw`: 4 x 4 gray images, whose class is their parity."""

    def read(location):
        if "pixels.raw" not in location.files:
            return None
        pixels = np.frombuffer(location.files.content("pixels.raw"), np.uint8).reshape(-1, 4, 4)
        parts = [
            SubsetArrays("train", pixels[:4], np.arange(4) % 2),
            SubsetArrays("test", pixels[4:], np.zeros(2, int)),
        ]
        return join_subsets(location.path, parts, ["even", "odd"])

    READERS.register("raw", read, help="a folder with pixels.raw")
    yield
    del READERS.entries["raw"]


def test_a_registered_reader_precedes_class_folders(tmp_path, one_file_reader):
    pixels = np.arange(96, dtype=np.uint8).reshape(6, 4, 4)
    folder = tmp_path / "raw"
    write_folder(folder, PICTURES | {"pixels.raw": pixels.tobytes()})
    found = load_images(Images(data=str(folder)), None)
    assert (found.images == pixels[..., None]).all() and found.class_names == ("even", "odd")
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 0] and found.subsets.tolist() == ["train"] * 4 + ["test"] * 2
    (folder / "pixels.raw").unlink()
    assert load_images(Images(data=str(folder)), 4).class_names == ("cat", "dog", "eel")
    with pytest.raises(UserError, match=r"allowed: a folder with pixels\.raw, 'digits'"):
        load_images(Images(data=str(tmp_path / "nowhere")), None)
