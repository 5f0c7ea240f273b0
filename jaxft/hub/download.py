"""Downloads of single files over HTTP, with pooch: a file is complete or not there."""

import os
import sys
from pathlib import Path

from jaxft.core.errors import Failure
from jaxft.core.files import explained_os_errors, replacing

TIMEOUT_SECONDS = 30.0  # without a byte from the server
MOST_CHARACTERS = 120  # of the reason in an error message


def address_of(url: str) -> str:
    """Returns the address from which `url` is downloaded: below `$JAXFT_MIRROR` if it is set, otherwise `url`.

    With JAXFT_MIRROR=http://server/mirror, https://host/path is http://server/mirror/host/path.
    """
    mirror = os.environ.get("JAXFT_MIRROR")
    return f"{mirror.rstrip('/')}/{url.partition('://')[2]}" if mirror else url


def download(url: str, path: Path) -> None:
    """Downloads `url` to a new file, with a progress bar on a terminal.

    Nothing is kept of a download that fails or is interrupted.

    Raises:
      Failure: the server cannot be reached, does not have the file, or the connection breaks.
      UserError: the disk is full.
    """
    import requests
    from pooch import HTTPDownloader

    path.parent.mkdir(parents=True, exist_ok=True)
    downloader = HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT_SECONDS)
    with explained_os_errors(path), replacing(path) as temporary:
        try:
            downloader(address_of(url), str(temporary), None)
        except requests.exceptions.RequestException as error:
            raise Failure(
                f"{address_of(url)} cannot be downloaded ({_reason(error)}); try again later, or download it by hand "
                f"to {str(path)!r} and run the same command again."
            ) from error


def _reason(error: Exception) -> str:
    """Returns the reason of a failed request in a few words."""
    import requests

    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer for {TIMEOUT_SECONDS:.0f} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "there is no connection to the server"
    return type(error).__name__
