"""The msgpack format of Flax: nested dicts of arrays with leaf names, for `flax.serialization.from_bytes`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.core import paths
from jaxft.core.reading import read_file
from jaxft.weights.formats.format import Contents, Format
from jaxft.weights.formats.refusal import explained_damage, refuse
from jaxft.weights.formats.trees import leaf_names

if TYPE_CHECKING:
    import numpy as np


def read(path: Path) -> Contents:
    """Returns the contents of a msgpack file. The format has only arrays, numbers and texts, so no code can run.

    Raises:
      UserError: the file is damaged, or a leaf of a network is not an array.
    """
    import numpy as np
    from flax.serialization import msgpack_restore

    with explained_damage(path, "a msgpack file of Flax"):
        tree = msgpack_restore(read_file(path))
        metadata = tree.pop("metadata", {})
        has_metadata = isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
        arrays = paths.flatten(tree)
        tensors = {leaf: arrays[name] for name, leaf in leaf_names(arrays).items()}
        if not all(isinstance(array, np.ndarray) for array in tensors.values()):
            refuse("has a leaf of the network that is not an array")
        return Contents(tensors, metadata if has_metadata else {}, "msgpack")


def write(path: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes a msgpack file with nested dicts of arrays of any shape, and the metadata as a further entry."""
    from flax.serialization import to_bytes

    path.write_bytes(to_bytes(paths.unflatten(tensors) | {"metadata": dict(metadata)}))


def matches(first_bytes: bytes) -> bool:
    """Returns whether a file is an empty map, or starts with a map of up to 15 entries with a short first name."""
    is_small_map = b"\x81" <= first_bytes[:1] <= b"\x8f"
    return first_bytes == b"\x80" or (is_small_map and b"\xa1" <= first_bytes[1:2] <= b"\xbf")


MSGPACK = Format("msgpack", (".msgpack",), matches, read, write, naming="flax")
