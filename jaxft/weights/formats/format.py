"""`Format`, the description of a format of weight files, and the registry of formats."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.core.errors import UserError
from jaxft.core.registry import Registry
from jaxft.core.text import cut_off

if TYPE_CHECKING:
    import numpy as np

LONGEST_NAME = 300  # characters of a tensor name
NUM_BYTES = 512  # number of bytes at the start of a file that determine its format


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
      naming: naming of the tensors that programs for this format expect, such as 'flax', 'keras' or 'caffe'. If empty,
        the format is for all namings.
      package: package that writing needs, of the extra of jaxft with the name of the format; empty if it needs none.
      matches_folder: returns whether a folder has this format. If None, the format is not for folders.
      files: returns the files of weights with several files, from the path of the weights. If None, weights are one
        file.
    """

    name: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    read: Callable[[Path], Contents]
    write: "Callable[[Path, Mapping[str, np.ndarray], Mapping[str, str]], None] | None" = None
    read_metadata: Callable[[Path], dict[str, str]] | None = None
    naming: str = ""
    package: str = ""
    matches_folder: Callable[[Path], bool] | None = None
    files: Callable[[Path], list[Path]] | None = None

    def contents_of(self, path: Path) -> Contents:
        """Returns the contents of a file, whose tensor names can be shown in a message of one line.

        Raises:
          UserError: the file is damaged.
        """
        contents = self.read(path)
        for name in (*contents.tensors, *contents.dropped):
            if not name.isprintable() or len(name) > LONGEST_NAME:
                raise UserError(
                    f"the weight file {str(path)!r} is damaged: it has a tensor with the name "
                    f"{cut_off(ascii(name), 80)}."
                )
        return contents

    def metadata_of(self, path: Path) -> dict[str, str]:
        """Returns the metadata of a file."""
        return self.read_metadata(path) if self.read_metadata else self.contents_of(path).metadata


FORMATS: Registry[Format] = Registry("weight format")


def register_format(weight_format: Format) -> None:
    """Registers a format under its name."""
    FORMATS.register(weight_format.name, weight_format)


def readable_suffixes() -> tuple[str, ...]:
    """Returns the suffixes of all formats."""
    return tuple(suffix for entry in FORMATS.values() for suffix in entry.value.suffixes)


def writable_suffixes() -> tuple[str, ...]:
    """Returns the suffixes of the formats that jaxft can write with the installed packages."""
    formats = [entry.value for entry in FORMATS.values() if entry.value.write and _is_installed(entry.value.package)]
    return tuple(suffix for weight_format in formats for suffix in weight_format.suffixes)


def _is_installed(package: str) -> bool:
    return not package or importlib.util.find_spec(package) is not None


def matching_formats(path: Path) -> list[Format]:
    """Returns the formats that match the content of a weight file or folder, then those that match its suffix."""
    formats = [entry.value for entry in FORMATS.values()]
    if path.is_dir():
        return [
            weight_format
            for weight_format in formats
            if weight_format.matches_folder and weight_format.matches_folder(path)
        ]
    with path.open("rb") as file:
        first_bytes = file.read(NUM_BYTES)
    matching = [weight_format for weight_format in formats if weight_format.matches(first_bytes)]
    return matching + [weight_format for weight_format in formats if path.name.endswith(weight_format.suffixes)]


def format_of(path: Path) -> Format:
    """Returns the format of a weight file or folder, from its content, or from its suffix if its content has no format.

    Raises:
      UserError: the file has none of the formats.
    """
    matching = matching_formats(path)
    if not matching:
        raise UserError(f"the weight file {str(path)!r} is truncated, or has none of the formats {', '.join(FORMATS)}.")
    return matching[0]


def format_to_write(path: str | Path) -> Format:
    """Returns the format for a new file, from the suffix of `path`.

    Raises:
      UserError: jaxft cannot write a format with this suffix, or the package for it is not installed.
    """
    for entry in FORMATS.values():
        if entry.value.write and Path(path).name.endswith(entry.value.suffixes):
            if not _is_installed(entry.value.package):
                raise UserError(
                    f"writing {Path(path).name!r} needs {entry.value.package}; `pip install 'jaxft[{entry.name}]'` "
                    "installs it."
                )
            return entry.value
    raise UserError(
        f"the suffix of {str(path)!r} is not a format that jaxft can write; its name must end in "
        f"{', '.join(writable_suffixes())}."
    )
