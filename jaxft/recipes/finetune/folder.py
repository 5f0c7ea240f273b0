"""The folder that `finetune` writes its result to, and the files in it."""

from pathlib import Path

from jaxft.core.errors import UserError
from jaxft.core.files import explained_os_errors

SELECTION, FINAL = "selection", "refit"  # the work directories of the two studies
RECORD = "finetune.json"
RANGE_RECORD, RANGE_FIGURE = "learning_rate.json", "learning_rate.png"  # of the learning-rate range test


def make_folder(folder: Path) -> Path:
    """Returns the folder for the result, after making it if it does not exist.

    Raises:
      UserError: it is a file, or a folder with other files than those of a result, or cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{str(folder)!r} is a file; --out names a folder.")
    others = {path.name for path in folder.iterdir()} - {RANGE_RECORD, RANGE_FIGURE} if folder.is_dir() else set()
    if others and not (folder / SELECTION).is_dir():
        raise UserError(f"the folder {str(folder)!r} holds something else; --out names a new or empty one.")
    with explained_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
