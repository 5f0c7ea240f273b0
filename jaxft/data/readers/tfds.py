"""Image sets of TensorFlow Datasets, `tfds:NAME`, prepared as array_record and read without TensorFlow.

    tfds:oxford_flowers102                    the newest version that is prepared
    tfds:cifar10_corrupted/brightness_1       a config of it
    tfds:oxford_flowers102:2.1.1              a version

They lie in $TFDS_DATA_DIR, else in ~/tensorflow_datasets, as TFDS has them. Preparing most of them takes TensorFlow,
and is done once, in a process of its own (`jaxft data prepare`).
"""

import functools
import importlib.util
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.core.devices import child_command
from jaxft.core.errors import UserError, did_you_mean
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.file_names import SUBSETS
from jaxft.data.readers.listing import ListedPicture, Listing
from jaxft.data.readers.location import Location

PREFIX = "tfds:"
SPEC = re.compile(r"tfds:(?P<name>[a-z0-9_]+)(/(?P<config>[^:/]+))?(:(?P<version>\d+\.\d+\.\d+))?")
FORMAT = "array_record"


def read_tfds(location: Location) -> Listing | None:
    """Returns the pictures of a set that is prepared, if a set of TFDS is named."""
    return list_tfds(location.data, location.label) if location.data.startswith(PREFIX) else None


def list_tfds(spec: str, label: str | None) -> Listing:
    """Returns the pictures of a set that is prepared: those of its splits train, validation and test, in this order.

    Names of classes are those of the feature `label`, or of the one named. A picture's own bytes are read, and decoded
    as any other's.

    Raises a `UserError` where it is not prepared, holds another number of pictures than it says, or cannot be read.
    """
    folder = find_prepared(spec)
    tfds = _tfds()
    try:
        builder = tfds.builder_from_directory(folder)
        features, splits = builder.info.features, builder.info.splits
        if FORMAT not in [format.value for format in builder.info.available_file_formats()]:
            raise UserError(
                f"{spec!r} in {str(folder)!r} is prepared as {builder.info.file_format.value}, which takes TensorFlow "
                f"to read; remove it, and `jaxft data prepare {spec}` prepares it as {FORMAT}."
            )
        image, label = _image_feature(tfds, spec, features), _label_feature(tfds, spec, features, label)
        class_names = tuple(map(str, features[label].names))
        decoders = {image: tfds.decode.SkipDecoding()} if isinstance(features[image], tfds.features.Image) else None
        pictures: list[ListedPicture] = []
        for name in sorted(splits, key=lambda name: (*SUBSETS.values(), "").index(SUBSETS.get(name, ""))):
            if name in SUBSETS:
                _check_length(spec, name, splits[name])
                data_source = builder.as_data_source(name, decoders=decoders)
                pictures += _list_split(spec, name, data_source, image, label, class_names)
    except UserError:
        raise
    except Exception as error:  # TFDS, protobuf and array_record have many kinds
        raise UserError(f"{spec!r} in {str(folder)!r} cannot be read: {reason_of(error)}.") from error
    if not pictures:
        raise UserError(f"{spec!r} has no pictures in its splits, {', '.join(splits) or 'of which it has none'}.")
    return Listing(tuple(pictures), class_names)


def _list_split(
    spec: str, name: str, data_source: Any, image: str, label: str, class_names: tuple[str, ...]
) -> list[ListedPicture]:
    one_at_a_time = threading.Lock()

    def read(number: int) -> bytes | np.ndarray:
        with one_at_a_time:
            value = data_source[number][image]
        return value if isinstance(value, bytes) else np.asarray(value)

    pictures = []
    for number in range(len(data_source)):
        try:
            of_class = int(data_source[number][label])
        except Exception as error:
            raise UserError(f"{spec!r}: picture {number} of {name!r} cannot be read: {reason_of(error)}.") from error
        if not 0 <= of_class < len(class_names):
            raise UserError(f"{spec!r}: picture {number} of {name!r} has no class ({of_class}).")
        item = f"{name}/{number}"
        pictures.append(ListedPicture(item, class_names[of_class], SUBSETS[name], "", functools.partial(read, number)))
    return pictures


def _check_length(spec: str, name: str, split: Any) -> None:
    """Checks that the files of a split hold as many records as its metadata say; TFDS believes these."""
    from array_record.python.array_record_module import ArrayRecordReader

    num_records = 0
    for path in split.filepaths:
        reader = ArrayRecordReader(os.fspath(path))
        num_records += reader.num_records()
        reader.close()
    if num_records != split.num_examples:
        raise UserError(
            f"{spec!r}: {name!r} holds {num_records:,} pictures, but its metadata say {split.num_examples:,}; "
            "prepare it anew."
        )


def _image_feature(tfds: Any, spec: str, features: Any) -> str:
    pictures = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    arrays = [
        name
        for name, feature in features.items()
        if isinstance(feature, tfds.features.Tensor)
        and np.dtype(feature.np_dtype) == np.uint8
        and len(feature.shape) > 1
    ]
    for names in (pictures, arrays):
        if names:
            return "image" if "image" in names else names[0]
    raise UserError(f"{spec!r} has no pictures; its features are {', '.join(sorted(features))}.")


def _label_feature(tfds: Any, spec: str, features: Any, label: str | None) -> str:
    classes = [name for name, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    wanted = label or ("label" if "label" in classes or len(classes) != 1 else classes[0])
    if wanted not in classes:
        guess = did_you_mean(wanted, classes)
        raise UserError(f"{spec!r} has no labels {wanted!r}{guess}; it has {', '.join(sorted(classes)) or 'none'}.")
    return wanted


# --- where they are, and preparing them -------------------------------------------------------------------------


def data_dir() -> Path:
    """Returns the folder of prepared sets: $TFDS_DATA_DIR, or TFDS's own default."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def parse(spec: str) -> tuple[str, str, str]:
    """Returns (name, config, version) of `tfds:NAME[/CONFIG][:VERSION]`, the last two empty where they are not said."""
    match = SPEC.fullmatch(spec)
    if not match:
        raise UserError(f"{spec!r} is no name of TFDS; it is tfds:NAME, tfds:NAME/CONFIG or either with :VERSION.")
    return match["name"], match["config"] or "", match["version"] or ""


def find_prepared(spec: str) -> Path:
    """Returns the folder of a prepared set, of several versions that of the newest."""
    name, config, version = parse(spec)
    base = data_dir() / name / config
    versions = _versions(base)
    configs = [] if config or versions else sorted(p.name for p in base.glob("*") if _versions(p))
    if len(configs) > 1:
        raise UserError(
            f"{spec!r} is prepared in several configs: {', '.join(configs)}; name one: {spec}/{configs[0]}."
        )
    if configs:
        base = base / configs[0]
        versions = _versions(base)
    if version:
        versions = [prepared for prepared in versions if prepared == version]
    if not versions:
        raise UserError(
            f"{spec!r} is not prepared in {str(data_dir())!r}; `jaxft data prepare {spec}` does it, "
            "and $TFDS_DATA_DIR names another folder."
        )
    return base / max(versions, key=lambda prepared: tuple(map(int, prepared.split("."))))


def _versions(base: Path) -> list[str]:
    return [p.parent.name for p in base.glob("*/dataset_info.json") if re.fullmatch(r"\d+\.\d+\.\d+", p.parent.name)]


def prepare(spec: str) -> None:
    """Downloads a set and prepares it as array_record, in this process."""
    name, config, version = parse(spec)
    builder = _tfds().builder(
        f"{name}/{config}" if config else name,
        version=version or None,
        data_dir=data_dir(),
        file_format=FORMAT,
    )
    builder.download_and_prepare()


def prepare_apart(spec: str) -> None:
    """Prepares a set in a process of its own, so that TensorFlow is never in the same as JAX.

    Raises a `UserError` where TensorFlow is missing, or preparing fails.
    """
    parse(spec)
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"preparing {spec!r} takes TensorFlow, which is not installed: pip install 'jaxft[tfds-prepare]'."
        )
    done = subprocess.run(child_command("jaxft.data.readers.tfds", "prepare", spec), stdout=sys.stderr)
    if done.returncode:
        raise UserError(f"{spec!r} could not be prepared in {str(data_dir())!r}; what TFDS says of it is above.")


def _tfds() -> Any:
    import tensorflow_datasets

    return tensorflow_datasets
