"""The readers of images by name. A reader is a function, and a line that registers it.

A reader takes a `Location` and returns a `Listing` of pictures or `Arrays`; None, if the location is none of its kind.
The one that was registered last is asked first. So what is general comes first below, and a plug-in's reader can take
folders that would be read as class folders without it.
"""

from collections.abc import Callable

from jaxft.core.registry import Registry
from jaxft.data.readers.arrays import Arrays
from jaxft.data.readers.cifar import read_cifar
from jaxft.data.readers.digits import read_digits
from jaxft.data.readers.folders import read_folders
from jaxft.data.readers.idx import read_idx
from jaxft.data.readers.listing import Listing
from jaxft.data.readers.location import Location
from jaxft.data.readers.npz import read_npz
from jaxft.data.readers.parquet import read_parquet_file, read_parquet_files
from jaxft.data.readers.tables import read_metadata, read_table
from jaxft.data.readers.tfds import read_tfds

Reader = Callable[[Location], Listing | Arrays | None]

READERS: Registry[Reader] = Registry("reader of images")

FOLDER = "a folder, zip or tar archive"
TABLE = "a .csv, .tsv, .jsonl or .parquet table"

# The help says where such images lie.
READERS.register("folders", read_folders, help=FOLDER)
READERS.register("parquet_files", read_parquet_files, help=FOLDER)
READERS.register("metadata", read_metadata, help=FOLDER)
READERS.register("cifar", read_cifar, help=FOLDER)
READERS.register("idx", read_idx, help=FOLDER)
READERS.register("table", read_table, help=TABLE)
READERS.register("parquet", read_parquet_file, help=TABLE)
READERS.register("npz", read_npz, help="an .npz file")
READERS.register("tfds", read_tfds, help="tfds:NAME")
READERS.register("digits", read_digits, help="'digits'")


def read_location(location: Location) -> Listing | Arrays | None:
    """Returns the images at a location by the first reader that reads such; None if there is none."""
    for entry in reversed(list(READERS.values())):
        images = entry.value(location)
        if images is not None:
            return images
    return None


def readable() -> str:
    """Returns where images may lie, in words."""
    *kinds, last = dict.fromkeys(entry.help for entry in reversed(list(READERS.values())))
    return f"{', '.join(kinds)} or {last}"
