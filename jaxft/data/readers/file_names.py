"""Meaning of file and folder names: images, hidden files, and splits of a data set."""

from pathlib import PurePosixPath

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


SUBSETS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def is_picture(name: PurePosixPath) -> bool:
    """Returns whether a file is not hidden and has the suffix of an image."""
    return not is_hidden(name) and name.suffix.lower() in SUFFIXES


def is_hidden(name: PurePosixPath) -> bool:
    """Returns whether a file or one of its folders is hidden, or is metadata that macOS adds to archives."""
    return any(part.startswith((".", "__MACOSX")) for part in name.parts)
