"""What a format of weight files is, and the registry of formats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.core.errors import UserError
from jaxft.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np

NUM_BYTES = 16  # of a file's beginning, by which its format is known


@dataclass(frozen=True)
class Contents:
    """What a weight file holds.

    Attributes:
      tensors: the arrays by the names that they have in the file.
      metadata: texts beside the tensors.
      variant: the format's name, with its version where there are several: 'torch (legacy)'.
      checked: what the bits were compared with while they were read; empty if with nothing.
    """

    tensors: "dict[str, np.ndarray]"
    metadata: dict[str, str] = field(default_factory=dict)
    variant: str = ""
    checked: str = ""


@dataclass(frozen=True)
class Format:
    """A format of weight files.

    Attributes:
      name: the name in messages.
      suffixes: suffixes of its files; the first is the usual one.
      matches: tells from the first `NUM_BYTES` bytes of a file whether it has this format.
      read: returns what the file at a path holds.
      write: writes tensors and metadata to a path; None if jaxft cannot write this format.
      read_metadata: returns the metadata alone, where this takes less time than `read`.
      has_own_names: whether tensors have the names and layouts of jaxft's variables (`params/head/kernel`) in place
        of published ones.
    """

    name: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    read: Callable[[Path], Contents]
    write: "Callable[[Path, Mapping[str, np.ndarray], Mapping[str, str]], None] | None" = None
    read_metadata: Callable[[Path], dict[str, str]] | None = None
    has_own_names: bool = False

    def metadata_of(self, path: Path) -> dict[str, str]:
        """Returns the texts that the file at `path` has beside its tensors."""
        return (self.read_metadata or (lambda path: self.read(path).metadata))(path)


FORMATS: Registry[Format] = Registry("weight format")


def register_format(form: Format) -> None:
    """Adds a format, under its name."""
    FORMATS.register(form.name, form)


def readable_suffixes() -> tuple[str, ...]:
    """Returns the suffixes of all formats."""
    return tuple(suffix for entry in FORMATS.values() for suffix in entry.value.suffixes)


def writable_suffixes() -> tuple[str, ...]:
    """Returns the suffixes of the formats that jaxft writes."""
    return tuple(suffix for entry in FORMATS.values() if entry.value.write for suffix in entry.value.suffixes)


def format_of(path: Path) -> Format:
    """Returns the format of a weight file, by how it begins, or by its suffix if it begins as none.

    Raises:
      UserError: it is of no format.
    """
    with path.open("rb") as file:
        begin = file.read(NUM_BYTES)
    formats = [entry.value for entry in FORMATS.values()]
    matching = [form for form in formats if form.matches(begin)]
    matching += [form for form in formats if path.suffix in form.suffixes]
    if not matching:
        raise UserError(f"the weight file {str(path)!r} is truncated, or of none of the formats {', '.join(FORMATS)}.")
    return matching[0]


def format_to_write(path: str | Path) -> Format:
    """Returns the format that is written to a path, by its suffix.

    Raises:
      UserError: no format that can be written has this suffix.
    """
    for entry in FORMATS.values():
        if entry.value.write and Path(path).suffix in entry.value.suffixes:
            return entry.value
    raise UserError(f"{str(path)!r} does not say its format; its name must end in {', '.join(writable_suffixes())}.")
