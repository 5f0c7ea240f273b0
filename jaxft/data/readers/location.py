"""Where images lie: what each reader is given, to say whether it reads that."""

import functools
from dataclasses import dataclass
from pathlib import Path

from jaxft.core.errors import UserError
from jaxft.data.readers.archives import Member, is_archive, members_of
from jaxft.data.readers.file_names import is_hidden
from jaxft.data.readers.files import Files


@dataclass(frozen=True, eq=False)
class Location:
    """The data that a config names, and which of several labels are asked for.

    Attributes:
      data: a path, or a name such as 'digits' or 'tfds:mnist'.
      label: which labels, if the images have several; if None, the usual ones.
    """

    data: str
    label: str | None = None

    @property
    def path(self) -> Path:
        """Returns the data as a path."""
        return Path(self.data)

    @property
    def is_file(self) -> bool:
        """Returns whether there is such a file."""
        return bool(self.data) and self.path.is_file()

    @functools.cached_property
    def is_container(self) -> bool:
        """Returns whether files are in it: whether it is a folder, or a zip or tar archive."""
        return bool(self.data) and self.path.exists() and (self.path.is_dir() or is_archive(self.path))

    @functools.cached_property
    def members(self) -> list[Member]:
        """Returns all files of the folder or archive; of anything else none."""
        return members_of(self.path) if self.is_container else []

    @functools.cached_property
    def files(self) -> Files:
        """Returns the files that are not hidden, by their whole names."""
        return Files(self.path, {str(name): read for name, read in self.members if not is_hidden(name)})

    @functools.cached_property
    def base_names(self) -> Files:
        """Returns the files that are not hidden, by their names without folders."""
        return Files(self.path, {name.name: read for name, read in self.members if not is_hidden(name)})

    def refuse_label(self) -> None:
        """Raises a `UserError` if a label is asked for: for data with one label an image."""
        if self.label is not None:
            raise UserError(f"{self.data!r} has no labels {self.label!r}: it has one label an image.")
