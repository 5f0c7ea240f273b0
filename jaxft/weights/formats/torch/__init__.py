"""PyTorch files (`torch.save`), read and written without PyTorch; code in a file never runs.

Imports only `core`. `containers` opens the two kinds of file, `unpickler` reads the pickle, and `reading` creates
arrays.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.weights.formats.format import Contents, Format

if TYPE_CHECKING:
    import numpy as np

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"


def is_tar(content: bytes) -> bool:
    """Returns whether a file is a tar archive, from its first bytes."""
    return content[257:262] == b"ustar"


def read(path: Path) -> Contents:
    """Returns the contents of a PyTorch file."""
    from jaxft.weights.formats.torch.reading import read_contents

    return dataclasses.replace(read_contents(path), metadata=read_metadata(path))


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata that jaxft wrote to a PyTorch file."""
    from jaxft.weights.formats.torch.reading import read_torch_metadata

    return read_torch_metadata(path)


def write(path: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes a PyTorch file with tensors of any shape by name."""
    from jaxft.weights.formats.torch.writing import write_torch_file

    write_torch_file(path, tensors, metadata)


TORCH = Format(
    "torch",
    (".pth", ".pt", ".th", ".bin", ".tar"),
    matches=lambda first_bytes: first_bytes.startswith((ZIP_MAGIC, PICKLE_MAGIC)) or is_tar(first_bytes),
    read=read,
    write=write,
    read_metadata=read_metadata,
)
