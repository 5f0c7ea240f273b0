"""`Format`, the description of a format of weight files, and the registry of formats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.core.errors import UserError
from jaxft.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np

NUM_BYTES = 16  # number of bytes at the start of a file that determine its format


@dataclass(frozen=True)
class Contents:
    """Contents of a weight file.

    Attributes:
      tensors: arrays by tensor name.
      metadata: texts by name.
      variant: name of the format with its version, such as 'torch (legacy)'; empty for a format with one version.
      checked: the integrity check that the file passed during reading, as a phrase; empty if there was no check.
      state_dict: name of the state dict that contains `tensors`, such as 'model' or 'state_dict.ema'; empty for tensors
        at the top level. If a file has several state dicts of unknown names, `tensors` is empty.
      others: for each other state dict of the file, by name, a function that returns the contents with its tensors.
      dropped: class of each object among the tensors that is not a tensor, by name.
    """

    tensors: "dict[str, np.ndarray]"
    metadata: dict[str, str] = field(default_factory=dict)
    variant: str = ""
    checked: str = ""
    state_dict: str = ""
    others: "Mapping[str, Callable[[], Contents]]" = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A format of weight files.

    Attributes:
      name: name of the format.
      suffixes: suffixes of files of this format, the default first.
      matches: returns whether the first `NUM_BYTES` bytes of a file belong to this format.
      read: returns the contents of a file.
      write: writes tensors and metadata to a file. If None, jaxft cannot write this format.
      read_metadata: returns only the metadata of a file. If None, `read` is used.
      uses_leaf_names: whether tensors have the leaf names of jaxft, such as `params/head/kernel`, and its layout.
    """

    name: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    read: Callable[[Path], Contents]
    write: "Callable[[Path, Mapping[str, np.ndarray], Mapping[str, str]], None] | None" = None
    read_metadata: Callable[[Path], dict[str, str]] | None = None
    uses_leaf_names: bool = False

    def metadata_of(self, path: Path) -> dict[str, str]:
        """Returns the metadata of a file."""
        return self.read_metadata(path) if self.read_metadata else self.read(path).metadata


FORMATS: Registry[Format] = Registry("weight format")


def register_format(weight_format: Format) -> None:
    """Registers a format under its name."""
    FORMATS.register(weight_format.name, weight_format)


def readable_suffixes() -> tuple[str, ...]:
    """Returns the suffixes of all formats."""
    return tuple(suffix for entry in FORMATS.values() for suffix in entry.value.suffixes)


def writable_suffixes() -> tuple[str, ...]:
    """Returns the suffixes of the formats that jaxft can write."""
    return tuple(suffix for entry in FORMATS.values() if entry.value.write for suffix in entry.value.suffixes)


def format_of(path: Path) -> Format:
    """Returns the format of a weight file, from its first bytes, or from its suffix if no format matches these.

    Raises:
      UserError: the file has none of the formats.
    """
    with path.open("rb") as file:
        first_bytes = file.read(NUM_BYTES)
    formats = [entry.value for entry in FORMATS.values()]
    matching = [weight_format for weight_format in formats if weight_format.matches(first_bytes)]
    matching += [weight_format for weight_format in formats if path.suffix in weight_format.suffixes]
    if not matching:
        raise UserError(f"the weight file {str(path)!r} is truncated, or has none of the formats {', '.join(FORMATS)}.")
    return matching[0]


def format_to_write(path: str | Path) -> Format:
    """Returns the format for a new file, from the suffix of `path`.

    Raises:
      UserError: jaxft cannot write a format with this suffix.
    """
    for entry in FORMATS.values():
        if entry.value.write and Path(path).suffix in entry.value.suffixes:
            return entry.value
    raise UserError(
        f"the suffix of {str(path)!r} is not a format that jaxft can write; its name must end in "
        f"{', '.join(writable_suffixes())}."
    )
