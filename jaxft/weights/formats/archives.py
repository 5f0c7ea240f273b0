"""Zip archives of the formats `.npz` and `.keras`: entries with bounded sizes."""

import struct
import zipfile

from jaxft.weights.formats.refusal import check_expansion, refuse

MAGIC = b"PK\x03\x04"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def first_entry(first_bytes: bytes) -> str:
    """Returns the name of the first entry of a zip archive, from the first bytes of the file; empty for other files."""
    if not first_bytes.startswith(MAGIC) or len(first_bytes) < 30:
        return ""
    (length,) = struct.unpack_from("<H", first_bytes, 26)
    return first_bytes[30 : 30 + length].decode(errors="replace")


def check_entries(archive: zipfile.ZipFile, num_bytes: int) -> None:
    """Checks the declared sizes of the entries of an archive of `num_bytes`, before an entry is read.

    Raises:
      Refused: entries overlap, or declare much more than the file can contain.
    """
    entries = archive.infolist()
    if any(entry.compress_type not in METHODS for entry in entries):
        refuse("is a zip archive with a compression other than deflate")
    if sum(entry.compress_size for entry in entries) > num_bytes:
        refuse("is a zip archive with overlapping entries")
    for entry in entries:
        if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
            refuse(f"is a zip archive whose entry {entry.filename[:80]!a} declares a wrong size")
    check_expansion(sum(entry.file_size for entry in entries), num_bytes)
