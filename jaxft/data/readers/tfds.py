"""Reader of TensorFlow Datasets (TFDS), `tfds:NAME`. It reads array_record files and needs no TensorFlow.

    tfds:oxford_flowers102                    the newest prepared version
    tfds:cifar10_corrupted/brightness_1       a config
    tfds:oxford_flowers102:2.1.1              a version

The files are in $TFDS_DATA_DIR, or in ~/tensorflow_datasets, the default of TFDS. Preparing a data set needs TensorFlow
in most cases. It is done once, in a separate process (`jaxft data prepare`).
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
from jaxft.core.text import shown, some_of
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.file_names import subset_of
from jaxft.data.readers.listing import ListedImage, Listing
from jaxft.data.readers.location import Location

PREFIX = "tfds:"
SPEC = re.compile(r"tfds:(?P<name>[a-z0-9_]+)(/(?P<config>[^:/]+))?(:(?P<version>\d+\.\d+\.\d+))?")
FORMAT = "array_record"


def read_tfds(location: Location) -> Listing | None:
    """Returns the images of a prepared data set, or None if the location is not tfds:NAME.

    Raises:
      UserError: the data set is not prepared or cannot be read.
    """
    return list_tfds(location.data, location.label) if location.data.startswith(PREFIX) else None


def list_tfds(spec: str, label: str | None) -> Listing:
    """Returns the images of a prepared data set, from its splits train, validation and test, in this order.

    The classes are those of the feature `label`. If None, the feature is 'label' or the only one with classes. Encoded
    images are decoded like image files.

    Raises:
      UserError: the data set is not prepared, is incomplete, or cannot be read.
    """
    folder = find_prepared(spec)
    tfds = _tfds()
    try:
        builder = tfds.builder_from_directory(folder)
        features, splits = builder.info.features, builder.info.splits
        if FORMAT not in [format.value for format in builder.info.available_file_formats()]:
            raise UserError(
                f"{spec!r} in {str(folder)!r} is prepared as {builder.info.file_format.value}, which only TensorFlow "
                f"can read; delete the folder, then `jaxft data prepare {spec}` prepares it as {FORMAT}."
            )
        image, label = _image_feature(tfds, spec, features), _label_feature(tfds, spec, features, label)
        class_names = tuple(map(str, features[label].names))
        decoders = {image: tfds.decode.SkipDecoding()} if isinstance(features[image], tfds.features.Image) else None
        images: list[ListedImage] = []
        for name in sorted(splits, key=lambda name: ("train", "val", "test", "").index(subset_of(name))):
            if subset_of(name):
                _check_length(spec, name, splits[name])
                data_source = builder.as_data_source(name, decoders=decoders)
                images += _list_split(spec, name, data_source, image, label, class_names)
    except UserError:
        raise
    except Exception as error:  # TFDS, protobuf and array_record raise many classes
        raise UserError(f"{spec!r} in {str(folder)!r} cannot be read: {reason_of(error)}.") from error
    if not images:
        available = f"its splits are {some_of(list(splits), 3)}" if splits else "it has no splits"
        raise UserError(f"{spec!r} has no images in the splits train, validation and test; {available}.")
    return Listing(tuple(images), class_names)


def _list_split(
    spec: str, name: str, data_source: Any, image: str, label: str, class_names: tuple[str, ...]
) -> list[ListedImage]:
    lock = threading.Lock()

    def read(number: int) -> bytes | np.ndarray:
        with lock:
            value = data_source[number][image]
        return value if isinstance(value, bytes) else np.asarray(value)

    images = []
    for number in range(len(data_source)):
        try:
            class_number = int(data_source[number][label])
        except Exception as error:
            raise UserError(f"{spec!r}: image {number} of {name!r} cannot be read: {reason_of(error)}.") from error
        if not 0 <= class_number < len(class_names):
            raise UserError(
                f"{spec!r}: image {number} of {name!r} has the label {class_number}; labels must be from 0 to "
                f"{len(class_names) - 1}."
            )
        images.append(
            ListedImage(
                name=f"{name}/{number}",
                class_name=class_names[class_number],
                subset=subset_of(name),
                domain="",
                read=functools.partial(read, number),
            )
        )
    return images


def _check_length(spec: str, name: str, split: Any) -> None:
    """Checks that the number of records of a split equals the number in its metadata. TFDS does not check this."""
    from array_record.python.array_record_module import ArrayRecordReader

    num_records = 0
    for path in split.filepaths:
        reader = ArrayRecordReader(os.fspath(path))
        num_records += reader.num_records()
        reader.close()
    if num_records != split.num_examples:
        raise UserError(
            f"{spec!r}: the split {name!r} contains {num_records:,} images, but its metadata state "
            f"{split.num_examples:,}; delete the data set and prepare it again."
        )


def _image_feature(tfds: Any, spec: str, features: Any) -> str:
    encoded = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    arrays = [
        name
        for name, feature in features.items()
        if isinstance(feature, tfds.features.Tensor)
        and np.dtype(feature.np_dtype) == np.uint8
        and len(feature.shape) > 1
    ]
    for names in (encoded, arrays):
        if names:
            return "image" if "image" in names else names[0]
    raise UserError(f"{spec!r} has no feature with images; its features are {some_of(sorted(features), 3)}.")


def _label_feature(tfds: Any, spec: str, features: Any, label: str | None) -> str:
    labels = [name for name, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    selected = label or ("label" if "label" in labels or len(labels) != 1 else labels[0])
    if selected not in labels:
        available = f"its labels are {some_of(sorted(labels), 3)}" if labels else "it has no labels"
        raise UserError(f"{spec!r} has no label {shown(selected)}{did_you_mean(selected, labels)}; {available}.")
    return selected


# --- locations and preparation ----------------------------------------------------------------------------------


def data_dir() -> Path:
    """Returns the folder of prepared data sets: $TFDS_DATA_DIR, or the default of TFDS."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def parse(spec: str) -> tuple[str, str, str]:
    """Returns (name, config, version) of `tfds:NAME[/CONFIG][:VERSION]`; config and version are '' if missing.

    Raises:
      UserError: `spec` has another form.
    """
    match = SPEC.fullmatch(spec)
    if not match:
        raise UserError(f"{spec!r} is not a valid name; write tfds:NAME, tfds:NAME/CONFIG, or either with :VERSION.")
    return match["name"], match["config"] or "", match["version"] or ""


def find_prepared(spec: str) -> Path:
    """Returns the folder of a prepared data set. If no version is named, the newest is used.

    Raises:
      UserError: the data set is not prepared, or is prepared in several configs and `spec` names none.
    """
    name, config, version = parse(spec)
    base = data_dir() / name / config
    versions = _versions(base)
    configs = [] if config or versions else sorted(p.name for p in base.glob("*") if _versions(p))
    if len(configs) > 1:
        raise UserError(
            f"{spec!r} is prepared in {len(configs)} configs, {some_of(configs, 3)}; name one, such as "
            f"{spec}/{configs[0]}."
        )
    if configs:
        base = base / configs[0]
        versions = _versions(base)
    if version:
        versions = [prepared for prepared in versions if prepared == version]
    if not versions:
        raise UserError(
            f"{spec!r} is not prepared in {str(data_dir())!r}; run `jaxft data prepare {spec}`, or set $TFDS_DATA_DIR "
            "to the folder of prepared data sets."
        )
    return base / max(versions, key=lambda prepared: tuple(map(int, prepared.split("."))))


def _versions(base: Path) -> list[str]:
    return [p.parent.name for p in base.glob("*/dataset_info.json") if re.fullmatch(r"\d+\.\d+\.\d+", p.parent.name)]


def prepare(spec: str) -> None:
    """Downloads a data set and prepares it as array_record, in this process.

    Raises:
      UserError: `spec` is not tfds:NAME[/CONFIG][:VERSION].
    """
    name, config, version = parse(spec)
    builder = _tfds().builder(
        f"{name}/{config}" if config else name,
        version=version or None,
        data_dir=data_dir(),
        file_format=FORMAT,
    )
    builder.download_and_prepare()


def prepare_apart(spec: str) -> None:
    """Prepares a data set in a separate process, so TensorFlow and JAX are never in the same process.

    Raises:
      UserError: TensorFlow is not installed, or the preparation fails.
    """
    parse(spec)
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"preparing {spec!r} needs TensorFlow, which is not installed: pip install 'jaxft[tfds-prepare]'."
        )
    done = subprocess.run(child_command("jaxft.data.readers.tfds", "prepare", spec), stdout=sys.stderr)
    if done.returncode:
        raise UserError(f"{spec!r} could not be prepared in {str(data_dir())!r}; the error of TFDS is printed above.")


def _tfds() -> Any:
    import tensorflow_datasets

    return tensorflow_datasets
