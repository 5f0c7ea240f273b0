"""Reader of IDX files, the format of MNIST (LeCun, "The MNIST database"): `train-images-idx3-ubyte`, optionally .gz."""

import gzip
import io
import math
import re
import struct
from typing import IO, Any

import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.reading import DAMAGE, UNPACKED_BYTES, check_size, read_stream
from jaxft.core.text import some_of
from jaxft.data.readers.arrays import Arrays, SubsetArrays, join_subsets
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.files import Files
from jaxft.data.readers.location import Location

NAME = re.compile(r"(?P<set>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(?P<gz>\.gz)?")


def read_idx(location: Location) -> Arrays | None:
    """Returns the images of IDX files, or None if the location has none. 't10k' in a file name is the test split.

    The class names are the lines of the optional file `class_names.txt`, otherwise numbers.

    Raises:
      UserError: a file cannot be read, or the files do not form one image set.
    """
    files, path = location.base_names, location.path
    image_files = {
        name: match for name in sorted(files) if (match := NAME.fullmatch(name)) and match["what"] == "images"
    }
    if not image_files:
        return None
    sets = sorted({match["set"] for match in image_files.values()})
    if len(sets) > 1:
        raise UserError(
            f"{str(path)!r} contains {len(sets)} sets of IDX files, with the prefixes {some_of(sets, 3)}; put each set "
            "in a separate folder."
        )
    subsets = [_read_subset(files, name, match) for name, match in image_files.items()]
    if len({subset.pixels.shape[1:] for subset in subsets}) > 1:
        raise UserError(f"{str(path)!r} has IDX files with images of different sizes; all images need one size.")
    arrays = join_subsets(path, subsets, files.lines("class_names.txt") or None)
    location.refuse_label()
    return arrays


def _read_subset(files: Files, name: str, match: re.Match[str]) -> SubsetArrays:
    """Returns the images of a file, with the labels of the matching label file."""
    stem = f"{match['set']}{match['part']}-labels{name[match.end('what')]}idx1-ubyte"
    label_file = next((candidate for candidate in (stem, f"{stem}.gz") if candidate in files), None)
    if label_file is None:
        raise UserError(f"{str(files.path)!r} has {name!r}, but no label file {stem!r}.")
    pixels, labels = _read_array(files, name, 3), _read_array(files, label_file, 1)
    if len(pixels) != len(labels):
        raise UserError(
            f"{str(files.path)!r} has {len(pixels):,} images in {name!r}, but {len(labels):,} labels in {label_file!r}."
        )
    return SubsetArrays("train" if match["part"] == "train" else "test", pixels, labels)


def _read_array(files: Files, name: str, num_axes: int) -> np.ndarray:
    """Returns the array of an IDX file, which is decompressed only if its shape is allowed."""
    content = io.BytesIO(files.content(name))
    try:
        stream: Any = gzip.GzipFile(fileobj=content) if name.endswith(".gz") else content
        with stream:
            shape = _read_shape(stream, num_axes)
            check_size(math.prod(shape), UNPACKED_BYTES)
            values = np.frombuffer(read_stream(stream), np.uint8)
        if len(values) != math.prod(shape):
            raise ValueError(f"it has {len(values):,} values for the shape {list(shape)}")
    except DAMAGE as error:
        raise UserError(f"{name!r} in {str(files.path)!r} cannot be read as an IDX file: {reason_of(error)}.") from None
    return values.reshape(shape)


def _read_shape(stream: IO[bytes], num_axes: int) -> tuple[int, ...]:
    """Returns the shape at the start of an IDX file: two zero bytes, the type (8: uint8), the number of axes, sizes."""
    header = stream.read(4 + 4 * num_axes)
    if header[:4] != bytes([0, 0, 8, num_axes]):
        raise ValueError(f"it starts with {header[:4].hex()} instead of 0000080{num_axes}")
    return struct.unpack(f">{num_axes}I", header[4:])
