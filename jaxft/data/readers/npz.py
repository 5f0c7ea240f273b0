"""Reader of .npz files with `images` and `labels`, or `train_images`, `train_labels`, ...; optionally `class_names`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.npz import load_npz
from jaxft.core.reading import DAMAGE
from jaxft.core.text import some_of
from jaxft.data.readers.arrays import Arrays, SubsetArrays, join_subsets
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.location import Location

SUBSETS = ("", "train", "val", "test")


def read_npz(location: Location) -> Arrays | None:
    """Returns the images of an .npz file, or None if the location is not an .npz file.

    Raises:
      UserError: the file cannot be read, or its arrays are missing or have a wrong shape or type.
    """
    path = location.path
    if path.suffix != ".npz" or not path.exists():
        return None
    names, arrays = _load(path)
    subsets = [subset for subset in SUBSETS if _key(subset, "images") in arrays]
    if not subsets:
        available = f"its arrays are {some_of(names, 3)}" if names else "it has no arrays"
        raise UserError(f"{str(path)!r} has neither 'images' nor 'train_images'; {available}.")
    joined = join_subsets(path, [_subset(path, arrays, subset) for subset in subsets], _class_names(path, arrays))
    location.refuse_label()
    return joined


def _load(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Returns the names of all arrays of a file, and the arrays that can belong to an image set."""
    try:
        return load_npz(path, KEYS)
    except DAMAGE as error:
        raise UserError(f"{str(path)!r} cannot be read as an .npz file of plain arrays: {reason_of(error)}.") from None


def _subset(path: Path, arrays: Mapping[str, np.ndarray], subset: str) -> SubsetArrays:
    pixels, labels = arrays[_key(subset, "images")], arrays.get(_key(subset, "labels"))
    if labels is not None and labels.shape == (len(pixels), 1):
        labels = labels[:, 0]
    name = f"{str(path)!r}: {_key(subset, 'images')!r}"
    is_image = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[-1] in (1, 3))
    if pixels.dtype != np.uint8 or not is_image or 0 in pixels.shape[1:]:
        raise UserError(
            f"{name} is {pixels.dtype} {list(pixels.shape)}; it must be uint8 [n, height, width (, 1 or 3)]."
        )
    if labels is None or labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{name} needs {_key(subset, 'labels')!r}: one integer per image.")
    return SubsetArrays(subset, pixels, labels)


def _class_names(path: Path, arrays: Mapping[str, np.ndarray]) -> list[str] | None:
    names = arrays.get("class_names")
    if names is None:
        return None
    if names.ndim != 1:
        raise UserError(f"{str(path)!r}: 'class_names' has the shape {list(names.shape)}; it must be a list of names.")
    try:
        texts = [(name.decode() if isinstance(name, bytes) else str(name)).strip() for name in names.tolist()]
        "".join(texts).encode()
    except (UnicodeError, SystemError):  # NumPy does not check the characters of a file
        raise UserError(f"{str(path)!r}: 'class_names' has characters that are not Unicode.") from None
    return texts


def _key(subset: str, name: str) -> str:
    return f"{subset}_{name}" if subset else name


KEYS = ("class_names", *(_key(subset, name) for subset in SUBSETS for name in ("images", "labels")))
