"""Meaning of file and folder names: images, hidden files, and splits of a data set."""

import functools
import re
from pathlib import PurePosixPath

# Raster formats that Pillow decodes by itself. Documents, videos and vector graphics are left out: EPS would start
# another program.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "MPO", "DIB", "QOI", "SGI", "SUN", "DDS"),
    *("PCX", "TGA"),
)

# The names of each split. `meaning_of` also accepts them with one of `ADDITIONS` before or after, and with a year.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
    "unlabeled": ("unlabeled", "unlabelled", "pred", "predict", "prediction"),
}
ADDITIONS = ("set", "data", "dataset", "image", "images", "img", "imgs", "pictures", "photos", "split", "seg", "folder")
NAMING = re.compile(
    "({0})?({1})({0})?((19|20)[0-9][0-9])?".format(
        "|".join(ADDITIONS), "|".join(name for names in SPLIT_NAMES.values() for name in names)
    )
)
HIDDEN = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN")


def subset_of(name: str) -> str:
    """Returns the split that a folder or a cell is named after: 'train', 'val' or 'test', or '' if none.

    Case, separators and additions do not matter: 'Training', 'test_set', 'seg_train' and 'val2017' are splits.
    """
    meaning = meaning_of(name)
    return "" if meaning == "unlabeled" else meaning


@functools.lru_cache(1 << 16)
def meaning_of(name: str) -> str:
    """Returns 'train', 'val', 'test', or 'unlabeled' for names such as 'seg_pred'; '' for other names."""
    match = NAMING.fullmatch(re.sub(r"[\W_]+", "", name.casefold()))
    return next((meaning for meaning, names in SPLIT_NAMES.items() if match and match[2] in names), "")


def mentions_split(name: str) -> bool:
    """Returns whether one of the words of a name is the name of a split, as in 'signs_train'."""
    return any(subset_of(word) for word in re.split(r"[\W_]+", name))


@functools.cache
def formats_by_suffix() -> dict[str, str]:
    """Returns the format of each suffix of image files, such as '.jpg': 'JPEG', for the formats in `FORMATS`."""
    from PIL import Image

    return {suffix: format for suffix, format in sorted(Image.registered_extensions().items()) if format in FORMATS}


def is_picture(name: PurePosixPath) -> bool:
    """Returns whether a file is not hidden and has the suffix of an image."""
    return not is_hidden(name) and name.suffix.lower() in formats_by_suffix()


def is_hidden(name: PurePosixPath) -> bool:
    """Returns whether a file or one of its folders is hidden, or is metadata that an operating system adds."""
    return any(part.startswith(HIDDEN) for part in name.parts)
