"""Flax's msgpack: nested dicts of arrays, for `flax.serialization.from_bytes`, with the names of jaxft's variables."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core import paths
from jaxft.core.errors import UserError
from jaxft.weights.formats.format import Contents, Format

if TYPE_CHECKING:
    import numpy as np

COLLECTIONS = ("params", "batch_stats", "counters")
DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def read(path: Path) -> Contents:
    """Returns the arrays of a file of Flax's by name; the format holds arrays, numbers and texts alone."""
    tree = _restored(path)
    tensors = {f"{c}/{name}": leaf for c in COLLECTIONS for name, leaf in paths.flatten(tree.get(c, {})).items()}
    metadata = tree.get("metadata", {})
    texts = isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
    return Contents(tensors, metadata if texts else {}, "msgpack")


def _restored(path: Path) -> dict[str, Any]:
    import numpy as np
    from flax.serialization import msgpack_restore

    try:
        tree = msgpack_restore(path.read_bytes())
        whole = isinstance(tree, dict) and all(
            isinstance(leaf, np.ndarray) for name in COLLECTIONS for leaf in paths.flatten(tree.get(name, {})).values()
        )
    except DAMAGE:
        whole = False
    if not whole:
        raise UserError(f"the weight file {str(path)!r} is truncated, damaged, or no msgpack file of Flax's.")
    return tree


def write(path: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes nested dicts of arrays, and the metadata beside them."""
    from flax.serialization import to_bytes

    path.write_bytes(to_bytes(paths.unflatten(tensors) | {"metadata": dict(metadata)}))


def matches(begin: bytes) -> bool:
    """Tells whether a file begins as a map of up to 15 short names, or is an empty map."""
    return begin == b"\x80" or (b"\x81" <= begin[:1] <= b"\x8f" and b"\xa1" <= begin[1:2] <= b"\xbf")


MSGPACK = Format("msgpack", (".msgpack",), matches, read, write, has_own_names=True)
