"""The files of published weights by name. Files that need no conversion are downloaded at their first use."""

import os
from pathlib import Path, PurePosixPath

from jaxft.core.digests import sha256_of
from jaxft.core.errors import Failure
from jaxft.hub.addresses import Address, find_address
from jaxft.hub.data_folders import downloads_folder, find_data_file, need_data_files
from jaxft.hub.download import download


def find_by_name(name: str) -> Path:
    """Returns the file of published weights, such as 'resnetsmall14.cifar100' or 'torchvision/resnet18'.

    The file is looked up in the data folders, and for weights of timm and torchvision in their own cache folders. If it
    is not there, weights of timm and torchvision are downloaded.

    Raises:
      UserError: there are no weights of this name, or `jaxft weights get` must download and convert them first.
      Failure: the download fails.
    """
    address = find_address("weights", name)
    path = find_data_file(address.file) or _find_elsewhere(address)
    if path is not None:
        return path
    return need_data_files([address.file])[0] if address.conversion else fetch(address)


def fetch(address: Address) -> Path:
    """Downloads the files of an address that need no conversion, and returns the path of the weights.

    Raises:
      Failure: the download fails, or the sha256 of the file does not begin with the digits in its name.
    """
    path = downloads_folder() / address.file
    for url in address.urls:
        file = path.parent / PurePosixPath(url).name
        if not file.is_file():
            download(url, file)
            digits = file.stem.rpartition("-")[2]
            if address.file.startswith("torchvision/") and not sha256_of(file.read_bytes()).startswith(digits):
                file.unlink()
                raise Failure(f"the download of {url} is damaged: its sha256 does not begin with {digits}; try again.")
    return path


def _find_elsewhere(address: Address) -> Path | None:
    """Returns the path of the file in the cache folder of PyTorch or the Hugging Face Hub; None if it is not there."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = PurePosixPath(address.file)
    if address.file.startswith("torchvision/"):
        torch_home = Path(os.environ.get("TORCH_HOME") or caches / "torch")
        paths = [torch_home / "hub" / "checkpoints" / name.name]
    elif address.file.startswith("timm/"):
        hub = Path(os.environ.get("HF_HOME") or caches / "huggingface") / "hub"
        snapshots = hub / f"models--timm--{name.parent.name}" / "snapshots"
        paths = [path for path in sorted(snapshots.glob(f"*/{name.name}")) if (path.parent / "config.json").is_file()]
    else:
        return None
    return next((path for path in paths if path.is_file()), None)
