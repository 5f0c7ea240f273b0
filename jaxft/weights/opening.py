"""Opening of a weight file: its format and its integrity. The network does not matter yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.core import paths
from jaxft.core.errors import UserError
from jaxft.models import create_model
from jaxft.weights.files import sha256_of_weights
from jaxft.weights.formats import Contents, Format, format_of
from jaxft.weights.manifest import METADATA_KEY, Manifest, digest_of, manifest_of_record, read_record
from jaxft.weights.namings import FLAX_NAMING
from jaxft.weights.porting import to_tensors
from jaxft.weights.published import check_sha256_in_name, find_file, published_manifest
from jaxft.weights.timm_record import read_timm_record


@dataclass(frozen=True)
class OpenedFile:
    """A weight file that passed the checks of its integrity.

    Attributes:
      path: the file.
      sha256: sha256 of the file.
      format: its format.
      contents: its contents.
      manifest: the manifest of a published file, of a file that jaxft wrote, or of a file with a record of timm beside
        it; None for other files.
      checked: the integrity check that the file passed, as a phrase; empty if none was possible.
    """

    path: Path
    sha256: str
    format: Format
    contents: Contents
    manifest: Manifest | None
    checked: str


def open_file(path: str | Path) -> OpenedFile:
    """Returns the contents of a weight file, after all checks of its integrity that it allows.

    The content of the file determines the format, not the suffix.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = find_file(path)
    sha256 = sha256_of_weights(path)
    manifest = published_manifest(path, sha256)
    file_format = format_of(path)
    is_sha256_in_name = file_format.name == "torch" and check_sha256_in_name(path, sha256)
    contents = file_format.contents_of(path)
    checked = "its sha256 matches its name" if is_sha256_in_name else contents.checked
    if manifest is not None:
        checked = "its sha256 matches the published file"
    elif METADATA_KEY in contents.metadata:
        record = read_record(path, contents.metadata[METADATA_KEY])
        if not _has_digest(record, contents, file_format):
            raise UserError(
                f"the weight file {str(path)!r} is damaged: its tensors do not match the sha256 in its metadata; "
                "download it or train it again."
            )
        manifest = manifest_of_record(record, path.name, sha256)
        checked = "its tensors match the sha256 in its metadata"
    elif (timm := read_timm_record(path)) is not None:
        manifest = Manifest(
            file=path.name,
            sha256=sha256,
            model=timm.model,
            preprocessing=timm.preprocessing,
            class_names=timm.class_names,
            origin=timm.origin,
            resize_px=timm.resize_px,
            notes=timm.notes(path.name),
        )
    return OpenedFile(path, sha256, file_format, contents, manifest, checked)


def _has_digest(record: Mapping[str, Any], contents: Contents, file_format: Format) -> bool:
    """Returns whether the tensors match the digest in `record`.

    If the record of a msgpack file has no naming, its digest covers the tensors under their published names.
    """
    tensors = contents.tensors
    if file_format.naming == FLAX_NAMING.name and "naming" not in record:
        try:
            tensors = to_tensors(create_model(record["model"], num_classes=2), paths.unflatten(tensors))
        except (UserError, ValueError, IndexError):
            return False
    return digest_of(tensors) == record["tensors_sha256"]
