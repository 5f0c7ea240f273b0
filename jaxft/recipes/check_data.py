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
    """Returns a report of the problems of the images at `data`, and of what is unusual about them.

    Args:
      data: a folder, archive, table or .npz file, 'digits' or tfds:NAME.
      domain: the domains to check; if None, all that the images have.
      label: which labels, if the images have several.
      quiet: whether to print no progress on standard error.

    Raises:
      UserError: the images cannot be listed.
    """
    from jaxft.data.checking import check_images

    spec = Images(data=os.fspath(data), domain=tuple(domain) if domain else None, label=label)
    with Progress(quiet) as progress:
        return check_images(spec, progress)
