"""The output folder of `finetune`, and the names of its files."""

from pathlib import Path

from jaxft.core.errors import UserError
from jaxft.core.files import explained_os_errors

SELECTION, FINAL = "selection", "refit"  # work directories of the two studies
RECORD = "finetune.json"
RANGE_RECORD, RANGE_FIGURE = "learning_rate.json", "learning_rate.png"  # from the learning-rate range test


def make_folder(folder: Path) -> Path:
    """Creates the output folder if it does not exist, and returns it.

    Raises:
      UserError: the path is a file or a folder with other contents, or the folder cannot be created.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{str(folder)!r} is a file; --out must be a folder.")
    others = {path.name for path in folder.iterdir()} - {RANGE_RECORD, RANGE_FIGURE} if folder.is_dir() else set()
    if others and not (folder / SELECTION).is_dir():
        raise UserError(f"the folder {str(folder)!r} contains other files; --out must be a new or an empty folder.")
    with explained_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
