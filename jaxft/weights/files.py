"""The files of weights: one file, several files with an index, or a folder. Their sizes and digests."""

from pathlib import Path

from jaxft.core.digests import sha256_of, sha256_of_file
from jaxft.core.errors import UserError
from jaxft.weights.formats import matching_formats
from jaxft.weights.formats.safetensors_index import INDEX


def files_of(path: Path) -> list[Path]:
    """Returns the files of the weights at `path`: usually only `path` itself.

    Raises:
      UserError: the weights have several files, and the list of these files is damaged.
    """
    matching = matching_formats(path)
    if matching and matching[0].files is not None:
        return matching[0].files(path)
    return [path]


def num_bytes_of(path: Path) -> int:
    """Returns the size in bytes of all files of the weights at `path`."""
    return sum(file.stat().st_size for file in files_of(path))


def sha256_of_weights(path: Path) -> str:
    """Returns the SHA-256 of the weights at `path`: 64 hexadecimal digits.

    The digest of one file is that of its bytes. The digest of several files covers the name relative to the folder and
    the bytes of each file.
    """
    files = files_of(path)
    if files == [path]:
        return sha256_of_file(path)
    folder = path if path.is_dir() else path.parent
    return sha256_of(*(f"{file.relative_to(folder).as_posix()} {sha256_of_file(file)}\n" for file in files))


def file_in_folder(folder: Path) -> Path:
    """Returns the path of the weights in a folder: the folder itself if it is a checkpoint, or the only index in it.

    The subfolder `default` is where the `CheckpointManager` of Orbax saves the checkpoint of a step.

    Raises:
      UserError: the folder is not a checkpoint, and does not have exactly one index.
    """
    for checkpoint in (folder, folder / "default"):
        if checkpoint.is_dir() and matching_formats(checkpoint):
            return checkpoint
    indices = sorted(folder.glob(f"*{INDEX}"))
    if len(indices) != 1:
        raise UserError(
            f"the folder {str(folder)!r} is not a weight file; it must be an Orbax checkpoint, or have exactly one "
            f"*{INDEX} (it has {len(indices)})."
        )
    return indices[0]
