"""PyTorch's files (`torch.save`), read and written without PyTorch and without running what lies in them.

Imports `core` only. `containers` opens the two kinds of file, `unpickler` reads the pickle, `reading` makes arrays.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.weights.formats.format import Contents, Format

if TYPE_CHECKING:
    import numpy as np

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"


def read(path: Path) -> Contents:
    """Returns what a file of torch.save holds."""
    from jaxft.weights.formats.torch.reading import read_torch_file

    tensors, metadata = read_torch_file(path), read_metadata(path)
    with path.open("rb") as file:
        is_archive = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if is_archive:
        return Contents(tensors, metadata, "torch", "the checksums (CRC-32) of its parts are right")
    return Contents(tensors, metadata, "torch (legacy)")


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the texts that jaxft kept beside the tensors."""
    from jaxft.weights.formats.torch.reading import read_torch_metadata

    return read_torch_metadata(path)


def write(path: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes a file as torch.save does."""
    from jaxft.weights.formats.torch.writing import write_torch_file

    write_torch_file(path, tensors, metadata)


TORCH = Format(
    "torch",
    (".pth", ".pt", ".th", ".bin", ".tar"),
    matches=lambda begin: begin.startswith((ZIP_MAGIC, PICKLE_MAGIC)),
    read=read,
    write=write,
    read_metadata=read_metadata,
)
