"""The folders where published files are looked up: `$JAXFT_DATA`, then the folder `data` in the cache folder."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from jaxft.core.cache import cache_dir
from jaxft.core.errors import UserError
from jaxft.core.text import some_of

COMMANDS = {"weights": "weights", "images": "data"}  # folder of a file -> command that downloads it


def downloads_folder() -> Path:
    """Returns the folder of files that jaxft downloads."""
    return cache_dir() / "data"


def data_folders() -> tuple[Path, ...]:
    """Returns the folders in which published files are looked up, in this order."""
    chosen = os.environ.get("JAXFT_DATA")
    return (*([Path(chosen).expanduser()] if chosen else []), downloads_folder())


def find_data_file(name: str) -> Path | None:
    """Returns the path of a published file such as 'images/caltech-101.zip'; None if no data folder has it."""
    return next((folder / name for folder in data_folders() if (folder / name).is_file()), None)


def get_commands(names: Sequence[str]) -> str:
    """Returns the commands that download published files such as 'images/caltech-101.zip'."""
    by_command: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.partition("/")
        by_command.setdefault(COMMANDS[folder], []).append(PurePosixPath(file).stem)
    return " and ".join(f"`jaxft {command} get {' '.join(stems)}`" for command, stems in by_command.items())


def need_data_files(names: Sequence[str]) -> list[Path]:
    """Returns the paths of published files such as 'images/caltech-101.zip'.

    Raises:
      UserError: no data folder has one of the files.
    """
    paths = {name: find_data_file(name) for name in names}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        folders = " or ".join(repr(str(folder)) for folder in data_folders())
        raise UserError(f"missing in {folders}: {some_of(missing)}; {get_commands(missing)} downloads what is missing.")
    return [path for path in paths.values() if path is not None]
