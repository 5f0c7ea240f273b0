"""Files by name: those of a folder or archive, or a single file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxft.core.errors import UserError
from jaxft.core.reading import DAMAGE, TEXT_BYTES, UNPACKED_BYTES
from jaxft.data.readers.archives import ReadBytes
from jaxft.data.readers.attempts import reason_of


@dataclass(frozen=True)
class Files(Mapping[str, ReadBytes]):
    """Functions that return the content of each file, by the name of the file.

    Attributes:
      path: the folder, archive or file, for error messages.
      by_name: the functions.
    """

    path: Path
    by_name: Mapping[str, ReadBytes]

    def __getitem__(self, name: str) -> ReadBytes:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def content(self, name: str, default: int = UNPACKED_BYTES) -> bytes:
        """Returns the content of a file.

        Args:
          name: name of the file.
          default: the bound of its kind in bytes, if the user sets none (`jaxft.core.reading`).

        Raises:
          UserError: the file cannot be read.
        """
        try:
            return self.by_name[name](default)
        except DAMAGE as error:
            raise UserError(f"{name!r} in {str(self.path)!r} cannot be read: {reason_of(error)}.") from None

    def lines(self, name: str) -> list[str]:
        """Returns the lines of a text file, without empty lines. Returns an empty list if the file does not exist.

        Raises:
          UserError: the file is not text in UTF-8.
        """
        if name not in self:
            return []
        try:
            text = self.content(name, TEXT_BYTES).decode()
        except UnicodeDecodeError:
            raise UserError(f"{name!r} in {str(self.path)!r} is not text in UTF-8.") from None
        return [line.strip() for line in text.splitlines() if line.strip()]
