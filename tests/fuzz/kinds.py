"""The kinds of files that the fuzzer mutates: a small valid file of each, and the function that reads it."""

import contextlib
import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helpers import draw_variables
from PIL import Image

import jaxft
from jaxft.config import Images
from jaxft.core import paths
from jaxft.data.readers.image_sets import load_images
from jaxft.data.sampling.manifests import write_manifest
from jaxft.models import create_model
from jaxft.recipes.predict import find_pictures
from jaxft.store.records import Store
from jaxft.weights import find_model, load_weights, read_class_names, save_weights
from jaxft.weights.formats import FORMATS, format_to_write, safetensors_index
from jaxft.weights.formats.keras import WEIGHTS
from jaxft.weights.namings import naming_of
from jaxft.weights.porting import to_tensors

SIDE = 8  # of images, in pixels
TRIAL = "0123456789abcdef"
MODEL = create_model("toy", num_classes=3)
VARIABLES = draw_variables(MODEL, SIDE)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
LABELS = np.arange(6) % 2


@dataclass(frozen=True)
class Kind:
    """A kind of files.

    Attributes:
      make: writes a valid file, or several, to an empty folder, and returns the path to read.
      read: reads the path; it returns, or raises a `UserError`.
    """

    make: Any
    read: Any


# --- weights ------------------------------------------------------------------------------------------------------


def read_weights(path, number):
    """Loads weights, with their classifier or without it, after their network is found."""
    with contextlib.suppress(jaxft.UserError):
        find_model(path)
    if number % 3 == 0:
        return jaxft.weights.read_network(path, "toy", check_values=False)
    return load_weights(path, MODEL, head=("load", "new")[number % 2], check_values=number % 5 == 0)


def saved(suffix):
    def make(folder):
        path = folder / f"toy{suffix}"
        before, safetensors_index.SHARD_BYTES = safetensors_index.SHARD_BYTES, 3000
        try:
            save_weights(path, MODEL, VARIABLES)
        finally:
            safetensors_index.SHARD_BYTES = before
        return path

    return make


def plain(suffix, naming=""):
    """Weights without the record of jaxft, as other programs write them: no digest stops a mutation early."""

    def make(folder):
        path = folder / f"toy{suffix}"
        format_to_write(path).write(path, to_tensors(MODEL, VARIABLES, naming_of(MODEL, naming)), {})
        return path

    return make


def compressed_npz(folder):
    path = saved(".npz")(folder)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    write_zip(path, entries)
    return path


def keras_archive(folder):
    inner = saved(".weights.h5")(folder)
    path = folder / "toy.keras"
    write_zip(path, {"metadata.json": b"{}", "config.json": b"{}", WEIGHTS: inner.read_bytes()}, zipfile.ZIP_STORED)
    inner.unlink()
    return path


def caffe(folder):
    """Caffe has no names for the toy network."""
    tensors = {f"{name}.0": np.asarray(leaf) for name, leaf in paths.flatten(VARIABLES["params"]).items()}
    FORMATS["caffe"].value.write(folder / "toy.caffemodel", tensors, {"a": "b"})
    return folder / "toy.caffemodel"


def orbax_files(folder):
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
        checkpointer.save(folder / "toy.orbax", VARIABLES)
    return folder / "toy.orbax"


def torch_tar(folder):
    from weights.test_torch_tar import tar

    path = folder / "toy.tar"
    path.write_bytes(tar({name: np.ascontiguousarray(a) for name, a in to_tensors(MODEL, VARIABLES).items()}))
    return path


def torch_legacy(folder):
    import torch

    tensors = {name: torch.tensor(array) for name, array in to_tensors(MODEL, VARIABLES).items()}
    path = folder / "toy.pth"
    torch.save({"state_dict": tensors, "epoch": 3}, path, _use_new_zipfile_serialization=False)
    return path


def timm_record(folder):
    """Returns weights beside the record of timm, and a record that can be mutated too."""
    saved(".npz")(folder)
    config = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "label_names": ["a", "b"]}
    record = {"architecture": "toy", "num_classes": 3, "pretrained_cfg": config}
    (folder / "config.json").write_text(json.dumps(record))
    with zipfile.ZipFile(folder / "toy.npz") as archive:
        entries = {name: archive.read(name) for name in archive.namelist() if name != "metadata.json"}
    write_zip(folder / "toy.npz", entries)
    return folder / "toy.npz"


def labels(folder):
    (folder / "labels.json").write_text(json.dumps({str(i): f"class {i}" for i in range(10)}))
    return folder / "labels.json"


# --- images -------------------------------------------------------------------------------------------------------


def read_images(path, number):
    """Loads images, checks them, or finds them for a prediction."""
    spec = Images(data=str(path), unreadable=("fail", "skip")[number % 2])
    if number % 3 == 0:
        return jaxft.check_data(path, quiet=True)
    if number % 3 == 1:
        return load_images(spec, SIDE, lambda event: None)
    with contextlib.suppress(jaxft.UserError):
        find_pictures([path])
    return load_images(spec, None, lambda event: None)


def encoded(pixels, form="png", **options):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form, **options)
    return content.getvalue()


def pictures(form="png", **options):
    return {f"{'ab'[label]}/{i}.{form}": encoded(PIXELS[i], form, **options) for i, label in enumerate(LABELS)}


def write_zip(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def write_files(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def picture_folder(form, **options):
    return lambda folder: write_files(folder / "set", pictures(form, **options))


def picture_zip(folder):
    write_zip(folder / "set.zip", pictures())
    return folder / "set.zip"


def picture_tar(mode):
    def make(folder):
        path = folder / f"set.tar{mode.removeprefix('w').replace(':', '.')}"
        with tarfile.open(path, mode) as archive:
            for name, content in pictures("jpeg").items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return path

    return make


def idx_entries():
    images = struct.pack(">HBB3I", 0, 8, 3, 6, SIDE, SIDE) + PIXELS[..., 0].tobytes()
    return {
        "train-images-idx3-ubyte.gz": gzip.compress(images, mtime=0),
        "train-labels-idx1-ubyte": struct.pack(">HBBI", 0, 8, 1, 6) + LABELS.astype(np.uint8).tobytes(),
        "class_names.txt": b"a\nb\n",
    }


def idx_zip(folder):
    write_zip(folder / "set.zip", idx_entries())
    return folder / "set.zip"


def cifar(folder):
    rows = RNG.integers(0, 256, (4, 3073), np.uint8)
    rows[:, 0] = [0, 1, 0, 1]
    return write_files(folder / "set", {"data_batch_1.bin": rows.tobytes(), "batches.meta.txt": b"a\nb\n"})


def image_npz(folder):
    np.savez_compressed(folder / "set.npz", images=PIXELS, labels=LABELS, class_names=["a", "b"])
    return folder / "set.npz"


def table(suffix):
    def make(folder):
        import pandas as pd

        write_files(folder, pictures())
        names = sorted(pictures())
        frame = pd.DataFrame({"file": names, "label": [name[0] for name in names], "split": "train"})
        path = folder / f"t{suffix}"
        match suffix:
            case ".parquet":
                frame.to_parquet(path)
            case ".jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
            case _:
                frame.to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=False)
        return path

    return make


def image_parquet(folder):
    import pyarrow as pa
    from pyarrow import parquet

    images = [{"bytes": encoded(pixels), "path": None} for pixels in PIXELS]
    features = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": images, "label": pa.array(LABELS)})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, folder / "train.parquet", row_group_size=3)
    return folder / "train.parquet"


# --- JSON of jaxft ------------------------------------------------------------------------------------------------


def work_directory(folder):
    """Returns a work directory with a plan, a run and a record of a trial."""
    store = Store.create(folder / "study")
    store.write_plan({"title": "t", "config": {"seeds": 1}, "factors": ["a"], "trials": [{"trial": TRIAL}]})
    store.write("trials", TRIAL, {"status": "done", "metrics": {"accuracy": 0.5}}, {"curve": np.arange(3)})
    return folder / "study"


def read_work_directory(path, number):
    store = Store.open(path)
    store.plan()
    store.read("trials", TRIAL)
    return [np.asarray(array) for array in store.arrays("trials", TRIAL).values()]


def manifest(folder):
    image_npz(folder)
    sampled = jaxft.data.draw(split_spec(folder / "set.npz", test_fraction=0.3), 0, SIDE)
    write_manifest(folder / "m.json", sampled)
    return folder / "m.json"


def split_spec(data, **fields):
    return Images(data=str(data), **fields)


def read_split(path, number):
    """Reads the manifest of a split, and draws the split from it."""
    return jaxft.data.draw(split_spec(path.with_name("set.npz"), manifest=str(path)), 0, SIDE)


KINDS = {
    "safetensors": Kind(saved(".safetensors"), read_weights),
    "safetensors (sharded)": Kind(saved(".safetensors.index.json"), read_weights),
    "safetensors without record": Kind(plain(".safetensors"), read_weights),
    "torch without record": Kind(plain(".pth"), read_weights),
    "msgpack without record": Kind(plain(".msgpack", "flax"), read_weights),
    "torch": Kind(saved(".pth"), read_weights),
    "torch (tar)": Kind(torch_tar, read_weights),
    "torch (legacy)": Kind(torch_legacy, read_weights),
    "msgpack": Kind(saved(".msgpack"), read_weights),
    "npz of weights": Kind(saved(".npz"), read_weights),
    "npz of weights (compressed)": Kind(compressed_npz, read_weights),
    "npz of weights, record of timm": Kind(timm_record, read_weights),
    "keras": Kind(saved(".h5"), read_weights),
    "keras 3": Kind(saved(".weights.h5"), read_weights),
    "keras archive": Kind(keras_archive, read_weights),
    "caffe": Kind(caffe, read_weights),
    "orbax": Kind(saved(".orbax"), read_weights),
    "orbax (files)": Kind(orbax_files, read_weights),
    "record": Kind(work_directory, read_work_directory),
    "manifest": Kind(manifest, read_split),
    "class names": Kind(labels, lambda path, number: read_class_names(path)),
    "npz of images": Kind(image_npz, read_images),
    "IDX": Kind(lambda folder: write_files(folder / "set", idx_entries()), read_images),
    "IDX in a zip": Kind(idx_zip, read_images),
    "CIFAR": Kind(cifar, read_images),
    "Parquet of images": Kind(image_parquet, read_images),
    "Parquet table": Kind(table(".parquet"), read_images),
    "CSV": Kind(table(".csv"), read_images),
    "TSV": Kind(table(".tsv"), read_images),
    "JSON Lines": Kind(table(".jsonl"), read_images),
    "zip": Kind(picture_zip, read_images),
    "tar": Kind(picture_tar("w"), read_images),
    "tar.gz": Kind(picture_tar("w:gz"), read_images),
    "tar.xz": Kind(picture_tar("w:xz"), read_images),
    **{form: Kind(picture_folder(form), read_images) for form in ("jpeg", "png", "gif", "webp", "tiff", "bmp", "avif")},
}


def files_of(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


def size_in_kib(field):
    """Returns a size of this process from the system, such as the peak of its memory, `VmHWM`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def reset_peak():
    """Lets `VmHWM` start again at the present size."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def cache():
    return os.environ["JAXFT_CACHE"]
