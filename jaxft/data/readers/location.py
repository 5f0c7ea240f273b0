"""The location of an image set, the argument of every reader."""

import functools
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxft.core.errors import UserError
from jaxft.core.reading import Unreadable, check_regular
from jaxft.core.text import shown
from jaxft.data.readers.archives import Contents, Member, contents_of, is_archive
from jaxft.data.readers.file_names import is_hidden
from jaxft.data.readers.files import Files


@dataclass(frozen=True, eq=False)
class Location:
    """The data of a config, and the label that is used if the images have several.

    Attributes:
      data: a path, or a name such as 'digits' or 'tfds:mnist'.
      label: name of the label. If None, the reader uses its default.
    """

    data: str
    label: str | None = None

    @property
    def path(self) -> Path:
        """Returns `data` as a path."""
        return Path(self.data)

    @property
    def is_file(self) -> bool:
        """Returns whether `data` is an existing file."""
        return bool(self.data) and self.path.is_file()

    @functools.cached_property
    def is_container(self) -> bool:
        """Returns whether `data` is a folder, or a zip or tar archive."""
        return bool(self.data) and self.path.exists() and (self.path.is_dir() or is_archive(self.path))

    @functools.cached_property
    def _contents(self) -> Contents:
        return contents_of(self.path) if self.is_container else Contents([], [])

    @property
    def members(self) -> list[Member]:
        """Returns all files of the folder or archive, or an empty list if `data` is neither."""
        return self._contents.members

    @property
    def folders(self) -> list[PurePosixPath]:
        """Returns the empty folders that are not hidden; of an archive, all folders that it lists."""
        return [folder for folder in self._contents.folders if not is_hidden(folder)]

    @functools.cached_property
    def files(self) -> Files:
        """Returns the files that are not hidden, by their names with folders."""
        return Files(self.path, {str(name): read for name, read in self.members if not is_hidden(name)})

    @functools.cached_property
    def base_names(self) -> Files:
        """Returns the files that are not hidden, by their names without folders."""
        return Files(self.path, {name.name: read for name, read in self.members if not is_hidden(name)})

    def refuse_special_file(self) -> None:
        """Checks that an existing path is a folder or a regular file, and not a named pipe, a socket or a device.

        Raises:
          UserError: it is something else.
        """
        if self.data and self.path.exists() and not self.path.is_dir():
            try:
                check_regular(self.path)
            except Unreadable as error:
                raise UserError(f"{self.data!r} cannot be read: {error}.") from None

    def refuse_label(self) -> None:
        """Checks that no label is selected. Readers of formats with one label per image call it.

        Raises:
          UserError: a label is selected.
        """
        if self.label is not None:
            raise UserError(
                f"{self.data!r} has no label {shown(self.label)}: its images have one label each; remove 'label'."
            )
