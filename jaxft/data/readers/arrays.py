"""Image sets that are arrays: scikit-learn's digits, .npz files, IDX files, CIFAR's binary files."""

import gzip
import importlib.util
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxft.core.errors import UserError
from jaxft.data.readers.archives import Member
from jaxft.data.readers.pictures import FAILURES, shortened

IDX = re.compile(r"(?P<set>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(?P<gz>\.gz)?")
CIFAR_SIDE = 32
CIFAR_BYTES = 3 * CIFAR_SIDE * CIFAR_SIDE
CIFAR_PARTS = {
    **{f"data_batch_{i}.bin": "train" for i in range(1, 6)},
    "test_batch.bin": "test",
    "train.bin": "train",
    "test.bin": "test",
}
# By the file with the names of the last of them: which bytes before an image's pixels are which labels.
CIFAR_LABELS = {"batches.meta.txt": ("label",), "fine_label_names.txt": ("coarse", "fine")}


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images of one size: pixels [n, height, width (, 1 or 3)] uint8, labels [n], their names, parts [n] or ''."""

    pixels: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    parts: np.ndarray


def digits() -> Arrays:
    """Returns scikit-learn's digits: 1,797 scans of 8 x 8 pixels with 17 grey levels (UCI; Alpaydin & Kaynak 1998)."""
    package = importlib.util.find_spec("sklearn")  # to import it takes a second
    assert package is not None and package.submodule_search_locations
    table = np.loadtxt(Path(package.submodule_search_locations[0], "datasets/data/digits.csv.gz"), delimiter=",")
    grey = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Arrays(grey, table[:, -1].astype(np.int64), tuple(map(str, range(10))), np.full(len(grey), ""))


# --- .npz files -------------------------------------------------------------------------------------------------


def read_npz(path: Path) -> Arrays:
    """Returns the images of an .npz file: `images` and `labels`, or those of each part: `train_images`, ..."""
    try:
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with file:
                arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{str(path)!r} cannot be read as an .npz file of plain arrays: {error}.") from None
    parts = [part for part in ("", "train", "val", "test") if _key(part, "images") in arrays]
    if not parts:
        raise UserError(f"{str(path)!r} has no 'images', nor 'train_images'; it has {', '.join(arrays) or 'nothing'}.")
    images, labels, where = [], [], []
    for part in parts:
        pixels, classes = arrays[_key(part, "images")], arrays.get(_key(part, "labels"))
        name = f"{str(path)!r}: {_key(part, 'images')!r}"
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (3, 4)
            or (pixels.ndim == 4 and pixels.shape[-1] not in (1, 3))
            or 0 in pixels.shape[1:]
        ):
            raise UserError(
                f"{name} is {pixels.dtype} {list(pixels.shape)}; it must be uint8 [n, height, width (, 3)]."
            )
        if classes is None or classes.shape != (len(pixels),) or not np.issubdtype(classes.dtype, np.integer):
            raise UserError(f"{name} needs whole-numbered {_key(part, 'labels')!r}, one an image.")
        images.append(pixels)
        labels.append(classes.astype(np.int64))
        where.append(np.full(len(pixels), part))
    all_labels = np.concatenate(labels)
    if not len(all_labels):
        raise UserError(f"{str(path)!r} has no images in it.")
    num_classes = int(all_labels.max()) + 1
    class_names = arrays.get("class_names", np.arange(num_classes))
    if class_names.ndim != 1:
        raise UserError(f"{str(path)!r}: 'class_names' is {list(class_names.shape)}; it must be a list of names.")
    names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in class_names.tolist())
    if all_labels.min() < 0 or num_classes > len(names):
        raise UserError(
            f"{str(path)!r} has labels from {all_labels.min()} to {num_classes - 1} for {len(names)} classes."
        )
    return Arrays(np.concatenate(images), all_labels, names, np.concatenate(where))


def _key(part: str, name: str) -> str:
    return f"{part}_{name}" if part else name


# --- IDX files --------------------------------------------------------------------------------------------------


def has_idx(members: Sequence[Member]) -> bool:
    """Tells whether there are images in IDX files, as MNIST has them: `train-images-idx3-ubyte`, perhaps with .gz."""
    return any((found := IDX.fullmatch(name.name)) and found["what"] == "images" for name, _ in members)


def read_idx(path: Path, members: Sequence[Member]) -> Arrays:
    """Returns the images of IDX files (LeCun, "The MNIST database"); 't10k' is the part 'test'.

    The classes are numbers, unless a file `class_names.txt` beside them has a name a line.
    """
    files = {name.name: read for name, read in members}
    found = {name: match for name in sorted(files) if (match := IDX.fullmatch(name)) and match["what"] == "images"}
    sets = sorted({match["set"] for match in found.values()})
    if len(sets) > 1:
        raise UserError(f"{str(path)!r} has several sets of IDX files: {', '.join(sets)}; put each in a folder.")
    pixels, labels, where = [], [], []
    for name, match in found.items():
        stem = f"{match['set']}{match['part']}-labels{name[match.end('what')]}idx1-ubyte"
        beside = [stem, f"{stem}.gz"]
        of_labels = next((other for other in beside if other in files), None)
        if of_labels is None:
            raise UserError(f"{str(path)!r} has {name!r}, but no labels {beside[0]!r}.")
        images = _idx_array(path, name, _content(path, name, files), 3)
        classes = _idx_array(path, of_labels, _content(path, of_labels, files), 1)
        if len(images) != len(classes):
            raise UserError(
                f"{str(path)!r} has {len(images):,} images in {name!r}, but {len(classes):,} labels in {of_labels!r}."
            )
        pixels.append(images)
        labels.append(classes.astype(np.int64))
        where.append(np.full(len(images), "train" if match["part"] == "train" else "test"))
    if len({images.shape[1:] for images in pixels}) > 1:
        raise UserError(f"{str(path)!r} has images of several sizes in its IDX files.")
    if not sum(map(len, pixels)):
        raise UserError(f"{str(path)!r} has no images in it.")
    every = np.concatenate(labels)
    names = tuple(_lines(path, "class_names.txt", files)) or tuple(map(str, range(int(every.max()) + 1)))
    _check_labels(path, every, names)
    return Arrays(np.concatenate(pixels), every, names, np.concatenate(where))


def _idx_array(path: Path, name: str, content: bytes, num_axes: int) -> np.ndarray:
    """Returns the array of an IDX file: two zeros, the type (8: uint8), how many axes, their lengths, the values."""
    try:
        content = gzip.decompress(content) if name.endswith(".gz") else content
        zeros, kind, axes = struct.unpack_from(">HBB", content)
        if (zeros, kind, axes) != (0, 8, num_axes):
            raise ValueError(f"it begins with {content[:4].hex()}, not with 0000080{num_axes}")
        shape = struct.unpack_from(f">{axes}I", content, 4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
        if len(values) != math.prod(shape):
            raise ValueError(f"it has {len(values):,} values for the shape {list(shape)}")
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{name!r} in {str(path)!r} cannot be read as an IDX file: {error}.") from None
    return values.reshape(shape)


# --- CIFAR's binary files ---------------------------------------------------------------------------------------


def has_cifar(members: Sequence[Member]) -> bool:
    """Tells whether there are the binary files of CIFAR-10 or CIFAR-100."""
    names = {name.name for name, _ in members}
    return any(meta in names for meta in CIFAR_LABELS) and any(name in names for name in CIFAR_PARTS)


def read_cifar(path: Path, members: Sequence[Member], label: str | None) -> Arrays:
    """Returns the images of CIFAR-10 or CIFAR-100 (Krizhevsky 2009) in the binary version.

    `label` says which labels of CIFAR-100: 'fine' (100 classes, also where it is None) or 'coarse' (20).
    """
    files = {name.name: read for name, read in members}
    meta = next(meta for meta in CIFAR_LABELS if meta in files)
    kinds = CIFAR_LABELS[meta]
    if label is not None and label not in kinds:
        has = " and ".join(repr(kind) for kind in kinds)
        raise UserError(f"{str(path)!r} has no labels {label!r}; it has {has}.")
    kind = label or kinds[-1]
    names = _lines(path, meta if kind == kinds[-1] else "coarse_label_names.txt", files)
    pixels, labels, where = [], [], []
    for name, part in CIFAR_PARTS.items():
        if name not in files:
            continue
        content = np.frombuffer(_content(path, name, files), np.uint8)
        if len(content) % (len(kinds) + CIFAR_BYTES):
            raise UserError(
                f"{name!r} in {str(path)!r} has {len(content):,} bytes, which are no whole number of CIFAR's images."
            )
        records = content.reshape(-1, len(kinds) + CIFAR_BYTES)
        planes = records[:, len(kinds) :].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE)
        pixels.append(planes.transpose(0, 2, 3, 1))
        labels.append(records[:, kinds.index(kind)].astype(np.int64))
        where.append(np.full(len(records), part))
    every = np.concatenate(labels)
    if not len(every):
        raise UserError(f"{str(path)!r} has no images in it.")
    _check_labels(path, every, names)
    return Arrays(np.concatenate(pixels), every, tuple(names), np.concatenate(where))


def _content(path: Path, name: str, files: Mapping[str, Callable[[], bytes]]) -> bytes:
    try:
        return files[name]()
    except FAILURES as error:
        raise UserError(f"{name!r} in {str(path)!r} cannot be read: {shortened(error)}.") from None


def _lines(path: Path, name: str, files: Mapping[str, Callable[[], bytes]]) -> list[str]:
    if name not in files:
        return []
    try:
        text = _content(path, name, files).decode()
    except UnicodeDecodeError:
        raise UserError(f"{name!r} in {str(path)!r} is no text in UTF-8.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _check_labels(path: Path, labels: np.ndarray, names: Sequence[str]) -> None:
    if labels.max() >= len(names):
        raise UserError(f"{str(path)!r} has labels from {labels.min()} to {labels.max()} for {len(names)} classes.")
