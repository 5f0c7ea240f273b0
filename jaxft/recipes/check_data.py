"""Checks a set of images before it is used."""

import os
from typing import TYPE_CHECKING

from jaxft.config import Images
from jaxft.tracking.console import Progress

if TYPE_CHECKING:
    from jaxft.data.checking import Report


def check_data(
    data: str | os.PathLike[str], domain: "list[str] | None" = None, label: str | None = None, quiet: bool = False
) -> "Report":
    """Returns what is wrong with the images at `data`, and what is odd about them (`jaxft.data.checking.Report`).

    Args:
      data: a folder, archive, table or .npz file, 'digits' or tfds:NAME.
      domain: domains to look at, of those that the images have; none: all.
      label: which labels, where images have several.
      quiet: whether to leave out the progress on standard error.

    Raises a `UserError` where the images cannot be listed.
    """
    from jaxft.data.checking import check_images

    spec = Images(data=os.fspath(data), domain=tuple(domain) if domain else None, label=label)
    with Progress(quiet) as progress:
        return check_images(spec, progress)
