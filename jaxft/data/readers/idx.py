"""IDX files, as MNIST has them (LeCun, "The MNIST database"): `train-images-idx3-ubyte`, perhaps with .gz."""

import gzip
import math
import re
import struct
import zlib

import numpy as np

from jaxft.core.errors import UserError
from jaxft.data.readers.arrays import Arrays, SubsetArrays, join_subsets
from jaxft.data.readers.files import Files
from jaxft.data.readers.location import Location

NAME = re.compile(r"(?P<set>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(?P<gz>\.gz)?")


def read_idx(location: Location) -> Arrays | None:
    """Returns the images of IDX files; 't10k' is the part 'test'.

    The classes are numbers, unless a file `class_names.txt` beside them has a name a line.
    """
    files, path = location.base_names, location.path
    image_files = {
        name: match for name in sorted(files) if (match := NAME.fullmatch(name)) and match["what"] == "images"
    }
    if not image_files:
        return None
    sets = sorted({match["set"] for match in image_files.values()})
    if len(sets) > 1:
        raise UserError(f"{str(path)!r} has several sets of IDX files: {', '.join(sets)}; put each in a folder.")
    subsets = [_read_subset(files, name, match) for name, match in image_files.items()]
    if len({subset.pixels.shape[1:] for subset in subsets}) > 1:
        raise UserError(f"{str(path)!r} has images of several sizes in its IDX files.")
    arrays = join_subsets(path, subsets, files.lines("class_names.txt") or None)
    location.refuse_label()
    return arrays


def _read_subset(files: Files, name: str, match: re.Match[str]) -> SubsetArrays:
    """Returns the images of a file, with the labels of the file that belongs to it."""
    stem = f"{match['set']}{match['part']}-labels{name[match.end('what')]}idx1-ubyte"
    of_labels = next((other for other in (stem, f"{stem}.gz") if other in files), None)
    if of_labels is None:
        raise UserError(f"{str(files.path)!r} has {name!r}, but no labels {stem!r}.")
    pixels, labels = _read_array(files, name, 3), _read_array(files, of_labels, 1)
    if len(pixels) != len(labels):
        raise UserError(
            f"{str(files.path)!r} has {len(pixels):,} images in {name!r}, but {len(labels):,} labels in {of_labels!r}."
        )
    return SubsetArrays("train" if match["part"] == "train" else "test", pixels, labels)


def _read_array(files: Files, name: str, num_axes: int) -> np.ndarray:
    """Returns the array of an IDX file: two zeros, the type (8: uint8), how many axes, their lengths, the values."""
    content = files.content(name)
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
        raise UserError(f"{name!r} in {str(files.path)!r} cannot be read as an IDX file: {error}.") from None
    return values.reshape(shape)
