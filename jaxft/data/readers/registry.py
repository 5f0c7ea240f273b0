"""Registry of image readers.

A reader takes a `Location`. It returns a `Listing` or `Arrays`, or None if it does not know the format of the location.
Readers are tried in reverse order of registration. So general readers are registered first, and a reader of a plug-in
can read folders that would otherwise be read as class folders.
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
from jaxft.data.readers.other_formats import refuse_other_formats
from jaxft.data.readers.parquet import read_parquet_file, read_parquet_files
from jaxft.data.readers.tables import read_metadata, read_table
from jaxft.data.readers.tfds import read_tfds

Reader = Callable[[Location], Listing | Arrays | None]

READERS: Registry[Reader] = Registry("reader of images")

FOLDER = "a folder, zip or tar archive"
TABLE = "a .csv, .tsv, .jsonl or .parquet table"

# The help names the kinds of location that the reader accepts.
READERS.register("folders", read_folders, help=FOLDER)
READERS.register("other_formats", refuse_other_formats, help=FOLDER)
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
    """Returns the images at a location, or None if no reader knows its format."""
    for entry in reversed(list(READERS.values())):
        images = entry.value(location)
        if images is not None:
            return images
    return None


def readable() -> str:
    """Returns a list of the kinds of location that can be read, for error messages."""
    *kinds, last = dict.fromkeys(entry.help for entry in reversed(list(READERS.values())))
    return f"{', '.join(kinds)} or {last}"
