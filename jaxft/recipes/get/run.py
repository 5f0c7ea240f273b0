"""Downloads a published file, converts it, and keeps it in the cache folder."""

import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from jaxft.core.digests import sha256_of
from jaxft.core.errors import Failure
from jaxft.core.files import explained_os_errors, replacing
from jaxft.hub.addresses import Address, find_address
from jaxft.hub.data_folders import downloads_folder, find_data_file
from jaxft.hub.download import download
from jaxft.hub.find import fetch
from jaxft.models import published


def get(kind: str, name: str) -> Path:
    """Returns the path of a published file. If no data folder has the file, it is downloaded and converted.

    Args:
      kind: 'weights' or 'data'.
      name: name of the file, such as 'resnetsmall14.cifar100' or 'intel-scenes-6'.

    Raises:
      UserError: there is no published file of this name.
      Failure: the download fails, or the converted file does not have its known sha256.
    """
    address = find_address(kind, name)
    path = find_data_file(address.file)
    if path is not None:
        return path
    if not address.conversion:
        return fetch(address)
    target = downloads_folder() / address.file
    folder = downloads_folder() / "downloads" / name
    downloads = [folder / PurePosixPath(urlsplit(url).path).name for url in address.urls]
    for url, file in zip(address.urls, downloads):
        if not file.is_file():
            download(url, file)
    with explained_os_errors(target):
        _convert(address, downloads, target)
        shutil.rmtree(folder)
    return target


def sha256_of_published(address: Address) -> str:
    """Returns the known sha256 of the converted file: of the table, or of the network family for weights."""
    name = PurePosixPath(address.file).name
    return address.sha256 or next(file.sha256 for file in published() if file.file == name)


def _convert(address: Address, downloads: list[Path], target: Path) -> None:
    """Writes the converted file, and checks its sha256."""
    from jaxft.recipes.get.conversions import CONVERSIONS

    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        CONVERSIONS[address.conversion](downloads, temporary, address.metadata)
        actual, expected = sha256_of(temporary.read_bytes()), sha256_of_published(address)
        if actual != expected:
            raise Failure(
                f"the download of {target.name} is damaged or has changed: after its conversion the sha256 is "
                f"{actual[:16]}..., but {expected[:16]}... is published; delete {str(downloads[0].parent)!r} and try "
                "again."
            )
