"""safetensors: a header with names, dtypes and offsets, then raw values (github.com/huggingface/safetensors)."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.errors import UserError
from jaxft.core.reading import DAMAGE
from jaxft.weights.formats.format import Contents, Format
from jaxft.weights.formats.refusal import printable

if TYPE_CHECKING:
    import numpy as np


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, *DAMAGE) as error:
        raise UserError(
            f"the weight file {str(path)!r} is truncated or not a safetensors file ({printable(str(error))})."
        ) from None


def read(path: Path) -> Contents:
    """Returns the contents of a safetensors file."""
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Contents(tensors, file.metadata() or {}, "safetensors")


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata in the header of a safetensors file."""
    with _opened(path) as file:
        return file.metadata() or {}


def write(path: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file with tensors of any shape by name."""
    from safetensors.numpy import save_file

    save_file(dict(tensors), str(path), metadata=dict(metadata) or None)


SAFETENSORS = Format(
    "safetensors",
    (".safetensors",),
    matches=lambda first_bytes: first_bytes[8:9] == b"{",  # after eight bytes with the length of the header
    read=read,
    write=write,
    read_metadata=read_metadata,
)
