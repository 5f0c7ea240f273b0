"""Reader of the binary files of CIFAR-10 and CIFAR-100 (Krizhevsky 2009)."""

import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.text import shown
from jaxft.data.readers.arrays import Arrays, SubsetArrays, join_subsets
from jaxft.data.readers.files import Files
from jaxft.data.readers.location import Location

SIDE = 32
IMAGE_BYTES = 3 * SIDE * SIDE
SUBSETS = {
    **{f"data_batch_{i}.bin": "train" for i in range(1, 6)},
    "test_batch.bin": "test",
    "train.bin": "train",
    "test.bin": "test",
}
# The label bytes that precede the pixels of an image, by the file with the class names of the last label.
LABELS = {"batches.meta.txt": ("label",), "fine_label_names.txt": ("coarse", "fine")}


def read_cifar(location: Location) -> Arrays | None:
    """Returns the images of the binary files of CIFAR-10 or CIFAR-100, or None if the location has no such files.

    The label of CIFAR-100 is 'fine' (100 classes, the default) or 'coarse' (20 classes).

    Raises:
      UserError: the label is unknown, or a file cannot be read.
    """
    files = location.base_names
    meta = next((meta for meta in LABELS if meta in files), None)
    if meta is None or not any(name in files for name in SUBSETS):
        return None
    kinds = LABELS[meta]
    if location.label is not None and location.label not in kinds:
        has = " and ".join(repr(kind) for kind in kinds)
        raise UserError(f"{str(files.path)!r} has no label {shown(location.label)}; it has {has}.")
    kind = location.label or kinds[-1]
    names = files.lines(meta if kind == kinds[-1] else "coarse_label_names.txt")
    subsets = [
        _read_subset(files, name, subset, len(kinds), kinds.index(kind))
        for name, subset in SUBSETS.items()
        if name in files
    ]
    return join_subsets(files.path, subsets, names)


def _read_subset(files: Files, name: str, subset: str, num_labels: int, label: int) -> SubsetArrays:
    content = np.frombuffer(files.content(name), np.uint8)
    if len(content) % (num_labels + IMAGE_BYTES):
        raise UserError(
            f"{name!r} in {str(files.path)!r} has {len(content):,} bytes, which is not a multiple of the "
            f"{num_labels + IMAGE_BYTES:,} bytes of a CIFAR image; the file is incomplete or not from CIFAR."
        )
    records = content.reshape(-1, num_labels + IMAGE_BYTES)
    planes = records[:, num_labels:].reshape(-1, 3, SIDE, SIDE)
    return SubsetArrays(subset, planes.transpose(0, 2, 3, 1), records[:, label])
