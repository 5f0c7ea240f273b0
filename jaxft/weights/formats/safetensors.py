"""safetensors: a header of names, types and places, then raw numbers (github.com/huggingface/safetensors)."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.errors import UserError
from jaxft.weights.formats.format import Contents, Format

if TYPE_CHECKING:
    import numpy as np


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"the weight file {str(path)!r} is truncated or no safetensors file ({error}).") from None


def read(path: Path) -> Contents:
    """Returns what a safetensors file holds."""
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Contents(tensors, file.metadata() or {}, "safetensors")


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the texts of the header."""
    with _opened(path) as file:
        return file.metadata() or {}


def write(path: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file."""
    from safetensors.numpy import save_file

    save_file(dict(tensors), str(path), metadata=dict(metadata))


SAFETENSORS = Format(
    "safetensors",
    (".safetensors",),
    matches=lambda begin: begin[8:9] == b"{",  # after the header's length
    read=read,
    write=write,
    read_metadata=read_metadata,
)
