"""The output folder of `finetune`: the names of its files, and the record of the command that it belongs to."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.core.errors import UserError
from jaxft.core.files import explained_os_errors, replacing

SELECTION, FINAL = "selection", "refit"  # work directories of the two studies
COMMAND = "command.json"  # identity of the command that the folder belongs to; written first
RECORD = "finetune.json"  # written last, so a folder with this file is complete
WEIGHTS = "weights"  # name of the delivered weight files, without the suffix
RANGE_RECORD, RANGE_FIGURE = "learning_rate.json", "learning_rate.png"  # from the learning-rate range test


def check_folder(folder: Path) -> None:
    """Checks that the folder is new, is empty, or contains a result of `finetune`.

    Raises:
      UserError: the path is a file or a folder with other contents.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{str(folder)!r} is a file; --out must be a folder.")
    others = {path.name for path in folder.iterdir()} - {RANGE_RECORD, RANGE_FIGURE} if folder.is_dir() else set()
    if others and not (folder / COMMAND).is_file():
        raise UserError(f"the folder {str(folder)!r} contains other files; --out must be a new or an empty folder.")


def claim_folder(folder: Path, identity: Mapping[str, Any], force: bool) -> None:
    """Creates the folder if it does not exist, and records the command that it belongs to.

    Args:
      folder: the output folder.
      identity: the value of each option that can change the result (`Task.identity`).
      force: whether to delete the result of another command, if the folder contains one.

    Raises:
      UserError: the folder belongs to another command and `force` is false, or the folder cannot be written.
    """
    with explained_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / COMMAND).is_file():
            if is_same_command(folder / COMMAND, identity, force):
                return
            _remove_result(folder)
        with replacing(folder / COMMAND) as temporary:
            temporary.write_text(json.dumps(identity, indent=1), encoding="utf-8")


def is_same_command(path: Path, identity: Mapping[str, Any], force: bool) -> bool:
    """Returns whether the command in a JSON file has this identity.

    Args:
      path: the file, with the identity of an earlier command.
      identity: the value of each option that can change the result.
      force: whether another command is allowed.

    Raises:
      UserError: the identities differ and `force` is false.
    """
    try:
        earlier = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        earlier = {}
    differing = [name for name in identity if earlier.get(name) != identity[name]]
    if differing and not force:
        raise UserError(
            f"the folder {str(path.parent)!r} contains the result of another command "
            f"({_difference(differing[0], earlier, identity)}); name another folder, or replace the result with "
            "--force."
        )
    return not differing


def _difference(name: str, earlier: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """Returns a phrase about an option that differs, such as '--seeds was 3 and is 5'."""
    if name in ("weights", "data"):
        return f"--{name} has other contents"
    before, now = ("not set" if value is None else value for value in (earlier.get(name), identity[name]))
    return f"--{name.replace('_', '-')} was {before} and is {now}"


def finished_record(folder: Path) -> dict[str, Any] | None:
    """Returns the record of a complete result, or None if a file of the result is missing."""
    from jaxft.report.finetune_record import CARD, PAGE

    if not (folder / RECORD).is_file():
        return None
    record = json.loads((folder / RECORD).read_bytes())
    return record if all((folder / name).is_file() for name in (*record["files"], PAGE, CARD)) else None


def _remove_result(folder: Path) -> None:
    """Deletes the files that `finetune` writes, first the record and last the command."""
    from jaxft.report.finetune_record import CARD, PAGE

    for name in (RECORD, PAGE, CARD, *(path.name for path in folder.glob(f"{WEIGHTS}.*"))):
        (folder / name).unlink(missing_ok=True)
    for name in (SELECTION, FINAL):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / COMMAND).unlink()
