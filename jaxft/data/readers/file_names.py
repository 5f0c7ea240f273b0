"""What the names of files and folders say: pictures, hidden files, parts of a data set."""

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
    """Tells whether a file is a picture by its name, and not hidden."""
    return not is_hidden(name) and name.suffix.lower() in SUFFIXES


def is_hidden(name: PurePosixPath) -> bool:
    """Tells whether a file, or a folder that it is in, is hidden or what macOS puts into archives."""
    return any(part.startswith((".", "__MACOSX")) for part in name.parts)
