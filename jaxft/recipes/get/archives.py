"""Zip archives: the files of a downloaded repository, and the archives that conversions write."""

import functools
import zipfile
from collections.abc import Mapping
from pathlib import Path

from jaxft.core.errors import UserError

DATE = (2000, 1, 1, 0, 0, 0)  # of all members, so that equal images give equal archives


class RepositoryArchive:
    """A zip archive whose files are in one folder, as GitHub makes it.

    Args:
      path: the archive.
      root: the folder of the files. If None, the folder of the first member.

    Raises:
      UserError: the file is not a zip archive.
    """

    def __init__(self, path: Path, root: str | None = None):
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"the download {str(path)!r} is not a zip archive; delete it and try again.") from error
        names = [name for name in self.zip.namelist() if not name.endswith("/")]
        self._root = f"{names[0].partition('/')[0]}/" if root is None and names else root or ""
        self.names = [name.removeprefix(self._root) for name in names]

    @functools.cached_property
    def _by_parent(self) -> dict[str, list[str]]:
        parents: dict[str, list[str]] = {}
        for name in self.names:
            parents.setdefault(name.rpartition("/")[0], []).append(name)
        return parents

    def in_folder(self, folder: str) -> list[str]:
        """Returns the files directly in `folder`."""
        return self._by_parent.get(folder, [])

    def by_folder(self, parent: str, suffix: str) -> dict[str, list[str]]:
        """Returns the files with this suffix in each subfolder of `parent`, by the name of the subfolder."""
        return {
            folder.rpartition("/")[2]: [name for name in names if name.endswith(suffix)]
            for folder, names in self._by_parent.items()
            if folder.rpartition("/")[0] == parent
        }

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""
        return self.zip.read(self._root + name)

    def text(self, name: str) -> str:
        """Returns the content of a text file."""
        return self.read(name).decode()

    def checksum(self, name: str) -> tuple[int, int]:
        """Returns the CRC-32 and the size of a file; files with equal content have equal checksums."""
        info = self.zip.getinfo(self._root + name)
        return info.CRC, info.file_size

    def extract(self, suffix: str, folder: Path) -> Path:
        """Writes the only file with this suffix to `folder`, and returns its path.

        Raises:
          UserError: the archive does not have exactly one such file.
        """
        names = [name for name in self.names if name.endswith(suffix)]
        if len(names) != 1:
            raise UserError(f"the download {self.zip.filename!r} has {len(names)} files '*{suffix}'; expected one.")
        path = folder / names[0].rpartition("/")[2]
        path.write_bytes(self.read(names[0]))
        return path


def write_zip(
    archive: RepositoryArchive, target: Path, members: Mapping[str, str], more: Mapping[str, bytes] | None = None
) -> None:
    """Writes a zip archive in the order of its names, without compression.

    Args:
      archive: the source of the members.
      target: the new archive.
      members: the name in `archive` of each new name.
      more: the content of each further file.
    """
    contents = more or {}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in sorted({*members, *contents}):
            info = zipfile.ZipInfo(name, DATE)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # Unix, on all machines
            new.writestr(info, contents[name] if name in contents else archive.read(members[name]))
