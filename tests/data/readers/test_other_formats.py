"""Formats of image sets that jaxft does not read: the error names them."""

import pickle
import time

import numpy as np
import pyarrow as pa
import pytest
from data.test_data import PICTURES, png, write_folder, write_zip
from data.test_readers import write_tar

from jaxft.cli import main
from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.data import load_images

BATCH = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]})
CIFAR_10 = {f"cifar-10-batches-py/{name}": BATCH for name in ("data_batch_1", "test_batch", "batches.meta")}
CIFAR_100 = {f"cifar-100-python/{name}": BATCH for name in ("train", "test", "meta")}


def arrow():
    table = pa.table({"image": [{"bytes": png(1), "path": "1.png"}], "label": [0]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


SAVED = {
    "dataset_dict.json": b'{"splits": ["train"]}',
    "train/dataset_info.json": b"{}",
    "train/state.json": b'{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}',
    "train/data-00000-of-00001.arrow": arrow(),
}
SHARD = {
    name: content for i in range(4) for name, content in ((f"{i:04}.png", png(i)), (f"{i:04}.cls", b"%d" % (i % 2)))
}


def shards(tmp_path):
    for i in range(2):
        write_tar(tmp_path / f"imagenet-{i:06}.tar", SHARD)
    return str(tmp_path)


def index(tmp_path):
    (tmp_path / "index.json").write_text('{"wids_version": 1, "shardlist": [{"url": "imagenet-000000.tar"}]}')
    return str(tmp_path / "index.json")


def index_of_lines(tmp_path):
    (tmp_path / "shards.txt").write_text("imagenet-000000.tar 100\nimagenet-000001.tar 100\n")
    return str(tmp_path / "shards.txt")


def one_batch(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(BATCH)
    return str(tmp_path / "data_batch_1")


def one_arrow(tmp_path):
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(SAVED["train/data-00000-of-00001.arrow"])
    return str(tmp_path / "data-00000-of-00001.arrow")


OTHERS = {
    "cifar_10": (lambda path: write_folder(path, CIFAR_10), "has the pickled batches of CIFAR for Python"),
    "cifar_10_tar": (lambda path: write_tar(path / "a.tar.gz", CIFAR_10, "w:gz"), "use the binary version, cifar-10-b"),
    "cifar_100": (lambda path: write_folder(path, CIFAR_100), "has the pickled batches of CIFAR for Python"),
    "one_batch": (one_batch, "has the pickled batches of CIFAR for Python"),
    "saved": (lambda path: write_folder(path, SAVED), "`save_to_disk` of Hugging Face datasets"),
    "one_arrow": (one_arrow, "`save_to_disk` of Hugging Face datasets"),
    "shard": (lambda path: write_tar(path / "0000.tar", SHARD), "is a shard of a WebDataset"),
    "shards": (shards, "contains archives and no images"),
    "index": (index, "is an index of shards, not a set of images"),
    "index_of_lines": (index_of_lines, "is an index of shards, not a set of images"),
    "pattern": (lambda path: f"{path}/imagenet-{{000000..000001}}.tar", "patterns of several files are not expanded"),
    "tfrecord": (lambda path: write_folder(path, {"train-0.tfrecord": b"x"}), "has TFRecord files"),
    "lmdb": (lambda path: write_folder(path, {"data.mdb": b"x", "lock.mdb": b"x"}), "is an LMDB database"),
}


@pytest.mark.parametrize(("write", "message"), OTHERS.values(), ids=OTHERS)
def test_other_formats_are_named(tmp_path, write, message, capsys):
    data = write(tmp_path)
    started = time.process_time()
    with pytest.raises(UserError) as error:
        load_images(Images(data=data), 4)
    assert time.process_time() - started < 2
    assert message in str(error.value) and data in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) - len(data) < 300
    assert main(["data", "check", data]) == 2 and message in capsys.readouterr().err


def test_annotations_next_to_images_are_no_shards(tmp_path):
    files = PICTURES | {f"{name[:-4]}.txt": b"x" for name in PICTURES}
    assert len(load_images(Images(data=write_zip(tmp_path / "a.zip", files)), 4).images) == 12
    write_folder(tmp_path / "b", PICTURES | {"old.zip": b"x", "labels.arrow": b"x"})
    assert len(load_images(Images(data=str(tmp_path / "b")), 4).images) == 12


def test_many_files_are_refused_quickly(tmp_path):
    names = [f"train/{i % 100}/{i}.png" for i in range(5_000)]
    data = write_zip(tmp_path / "a.zip", dict.fromkeys([*names, "train/x.png"], b""))
    started = time.process_time()
    with pytest.raises(
        UserError, match=r"has the image 'train/x\.png' outside of the layout split/class/image of 5,000"
    ):
        load_images(Images(data=data), 4)
    assert time.process_time() - started < 2
