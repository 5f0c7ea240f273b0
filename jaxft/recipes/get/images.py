"""Conversions of downloaded images, to zip archives of class folders or to arrays."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxft.recipes.get.archives import RepositoryArchive, write_zip

CIFAR10_SIDE = 32
CIFAR10_TRAIN = slice(0, 4000)
CIFAR10_TEST = slice(50_000, 51_000)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_TRAIN, FASHION_TEST = 6000, 2000  # the first images of each split


def caltech(downloads: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Writes the first 10 images of each class as the training split, and the next 5 as the test split."""
    archive = RepositoryArchive(downloads[0])
    classes = archive.by_folder("101_ObjectCategories", ".jpg")
    del classes["BACKGROUND_Google"]
    write_zip(archive, target, _cut(classes, {"train": 10, "test": 5}, "{split}/{folder}/{name}"))


def pacs(downloads: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Writes the first 20 images of each class of a domain as the training split, and the next 10 as the test split."""
    archive = RepositoryArchive(downloads[0])
    members: dict[str, str] = {}
    for domain in ("art_painting", "cartoon", "photo", "sketch"):
        classes = archive.by_folder(f"PACS/{domain}", "")
        members |= _cut(classes, {"train": 20, "test": 10}, domain + "/{split}/{folder}/{name}")
    write_zip(archive, target, members)


def intel(downloads: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Writes the first 200 training and 100 test images of each class, without test images that are in training."""
    archive = RepositoryArchive(downloads[0])
    train = archive.by_folder("train", ".jpg")
    checksums = {archive.checksum(name) for names in train.values() for name in names}
    test = {
        folder: [name for name in names if archive.checksum(name) not in checksums]
        for folder, names in archive.by_folder("test", ".jpg").items()
    }
    members = _cut(train, {"train": 200}, "{split}/{folder}/{name}")
    write_zip(archive, target, members | _cut(test, {"test": 100}, "{split}/{folder}/{name}"))


def tiny_imagenet(downloads: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Writes the first 20 training and 6 validation images of each class by number, and the words of each class."""
    archive = RepositoryArchive(downloads[0])
    root = "tiny-imagenet-200"
    wnids = sorted(archive.text(f"{root}/wnids.txt").split())
    words = dict(line.split("\t", 1) for line in archive.text(f"{root}/words.txt").splitlines())
    members: dict[str, str] = {}
    for wnid in wnids:
        images = archive.in_folder(f"{root}/train/{wnid}/images")
        members |= {f"train/{wnid}/{_base(name)}": name for name in sorted(images, key=_number)[:20]}
    validation: dict[str, list[str]] = {wnid: [] for wnid in wnids}
    for line in archive.text(f"{root}/val/val_annotations.txt").splitlines():
        name, wnid = line.split("\t")[:2]
        validation[wnid].append(f"{root}/val/images/{name}")
    for wnid, names in validation.items():
        members |= {f"val/{wnid}/{_base(name)}": name for name in sorted(names, key=_number)[:6]}
    classes = "".join(f"{wnid}\t{words[wnid].strip()}\n" for wnid in wnids)
    write_zip(archive, target, members, {"classes.txt": classes.encode()})


def cifar10(downloads: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Writes the first 4,000 training and 1,000 test images of CIFAR-10, whose pixels are the rows of PNG files."""
    from PIL import Image

    *sprites, labels_file = downloads
    rows = np.concatenate([np.asarray(Image.open(path).convert("RGB")) for path in sprites])
    pixels = rows.reshape(-1, CIFAR10_SIDE, CIFAR10_SIDE, 3)
    text = labels_file.read_text()
    labels = np.array(json.loads(text[text.index("[") : text.index("]") + 1]), np.uint8)
    num_train = CIFAR10_TRAIN.stop
    _write_arrays(
        target,
        (pixels[:num_train], labels[CIFAR10_TRAIN]),
        (pixels[num_train:], labels[CIFAR10_TEST]),
        CIFAR10_CLASSES,
    )


def fashion_mnist(downloads: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Writes the first 6,000 training and 2,000 test images of Fashion-MNIST."""
    from jaxft.config import Images
    from jaxft.data.readers.arrays import Arrays
    from jaxft.data.readers.image_sets import find_images

    arrays = find_images(Images(data=str(downloads[0].parent)))
    assert isinstance(arrays, Arrays)
    labels = arrays.labels.astype(np.uint8)
    train, test = (np.flatnonzero(arrays.subsets == split) for split in ("train", "test"))
    train, test = train[:FASHION_TRAIN], test[:FASHION_TEST]
    _write_arrays(target, (arrays.pixels[train], labels[train]), (arrays.pixels[test], labels[test]), FASHION_CLASSES)


def _write_arrays(
    target: Path, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], classes: Sequence[str]
) -> None:
    """Writes an .npz file of (images, labels). It is not compressed, because zlib's output depends on its version."""
    with target.open("wb") as file:
        np.savez(
            file,
            train_images=train[0],
            train_labels=train[1],
            test_images=test[0],
            test_labels=test[1],
            class_names=np.array(classes),
        )


def _cut(folders: Mapping[str, Sequence[str]], sizes: Mapping[str, int], layout: str) -> dict[str, str]:
    """Returns {new name: member} of consecutive images of each folder, in the order of their names.

    Args:
      folders: the members of each folder.
      sizes: the number of images of each split, in this order.
      layout: the new name of an image, with the fields {split}, {folder} and {name}.
    """
    members = {}
    for folder, names in folders.items():
        remaining = sorted(names)
        for split, size in sizes.items():
            for name in remaining[:size]:
                members[layout.format(split=split, folder=folder, name=_base(name))] = name
            remaining = remaining[size:]
    return members


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _number(name: str) -> int:
    """Returns the number at the end of a file name: 7 for 'n01443537_7.JPEG'."""
    return int(_base(name).rpartition("_")[2].partition(".")[0])
