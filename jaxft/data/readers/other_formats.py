"""Well-known formats of image sets that jaxft does not read. The error names the format and what to do."""

import json
from collections.abc import Callable
from pathlib import PurePosixPath

from jaxft.core.errors import UserError
from jaxft.data.readers.file_names import is_picture
from jaxft.data.readers.location import Location

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip", ".tfrecord", ".arrow", ".parquet")
INDEX_BYTES = 1 << 20  # an index file is read up to here


def refuse_other_formats(location: Location) -> None:
    """Checks that the location does not have a format of `OTHER_FORMATS`. Returns None, so other readers can read it.

    Raises:
      UserError: it has.
    """
    if not (location.is_container or location.is_file):
        return
    for recognizes, problem in OTHER_FORMATS:
        if recognizes(location):
            raise UserError(f"{location.data!r} {problem}")


def _names(location: Location) -> set[str]:
    return set(location.base_names) if location.is_container else {location.path.name}


def _has_pictures(location: Location) -> bool:
    return any(is_picture(name) for name, _ in location.members)


def _is_cifar_pickle(location: Location) -> bool:
    names = _names(location)
    is_set = "batches.meta" in names or {"meta", "train", "test"} <= names
    is_file = location.is_file and any(name.startswith(("data_batch_", "test_batch")) for name in names)
    return (is_set or (is_file and not location.path.suffix)) and not _has_pictures(location)


def _is_saved_dataset(location: Location) -> bool:
    return not _has_pictures(location) and any(name.endswith(".arrow") for name in _names(location))


def _is_tfrecord(location: Location) -> bool:
    return not _has_pictures(location) and any(".tfrecord" in name for name in _names(location))


def _is_lmdb(location: Location) -> bool:
    return "data.mdb" in _names(location)


def _is_web_dataset(location: Location) -> bool:
    """Returns whether most images of an archive are in one folder, each with a file of its class, such as 1.cls."""
    if location.path.is_dir() or len({name.parts[:-1] for name, _ in location.members}) != 1:
        return False
    names = {name for name, _ in location.members}
    pictures = [name for name in names if is_picture(name)]
    return 2 * sum(any(name in names for name in _label_files(picture)) for picture in pictures) > len(pictures)


def _label_files(picture: PurePosixPath) -> list[PurePosixPath]:
    """Returns the files that can have the class of an image. The key of a sample ends at the first dot."""
    return [picture.parent / f"{picture.name.split('.')[0]}.{suffix}" for suffix in ("cls", "json", "txt")]


def _is_shards(location: Location) -> bool:
    names = _names(location)
    if not location.path.is_dir() or _has_pictures(location):
        return False
    return any(name.endswith((".tar", ".tar.gz", ".tgz", ".zip")) for name in names)


def _is_shard_index(location: Location) -> bool:
    """Returns whether a text or JSON file lists shards."""
    if not location.is_file or location.path.suffix not in (".json", ".txt", ".lst", ".index"):
        return False
    with location.path.open("rb") as file:
        text = file.read(INDEX_BYTES).decode("utf-8", "replace")
    try:
        words = list(_strings(json.loads(text)))
    except (ValueError, RecursionError):
        words = text.split()
    return any(word.endswith(SHARD_SUFFIXES) for word in words)


def _strings(value: object) -> list[str]:
    """Returns all strings in a JSON value, also the keys of objects."""
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *_strings(item))]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


OTHER_FORMATS: tuple[tuple[Callable[[Location], bool], str], ...] = (
    (
        _is_cifar_pickle,
        "has the pickled batches of CIFAR for Python, which jaxft does not unpickle; use the binary version, "
        "cifar-10-binary.tar.gz or cifar-100-binary.tar.gz.",
    ),
    (
        _is_saved_dataset,
        "has Arrow files, as `save_to_disk` of Hugging Face datasets writes them; write each split as Parquet "
        "instead, such as dataset['train'].to_parquet('train.parquet'), and name their folder.",
    ),
    (
        _is_tfrecord,
        "has TFRecord files, which only TensorFlow reads; for a data set of TensorFlow Datasets, `jaxft data prepare "
        "tfds:NAME` prepares it as array_record; otherwise write the images to class folders.",
    ),
    (_is_lmdb, "is an LMDB database; write its images to class folders, or to a .parquet or .npz file."),
    (
        _is_web_dataset,
        "is a shard of a WebDataset, with a .cls, .json or .txt file for each image; write the images to class "
        "folders, or unpack the shards and list files and classes in a table.",
    ),
    (
        _is_shards,
        "contains archives and no images; name one of the archives, or unpack all of them into class folders.",
    ),
    (
        _is_shard_index,
        "is an index of shards, not a set of images; name the folder of its .parquet files, or unpack the shards into "
        "class folders.",
    ),
)
