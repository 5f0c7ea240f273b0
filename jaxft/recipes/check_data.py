"""Checks a data set before training."""

import os
from typing import TYPE_CHECKING

from jaxft.config import Images
from jaxft.tracking.console import Progress

if TYPE_CHECKING:
    from jaxft.data.checking import Report


def check_data(
    data: str | os.PathLike[str], domain: "list[str] | None" = None, label: str | None = None, quiet: bool = False
) -> "Report":
    """Returns a report of the problems and the unusual properties of a data set.

    Problems are unreadable or damaged images, classes with several spellings, classes that are missing in a split, and
    duplicates. All images are read, and none is stored.

    Args:
      data: a folder or archive of images, a table of files and labels, an .npz file, 'digits' or tfds:NAME.
      domain: the domains to check. If None, all domains.
      label: the name of the labels, if the data has several kinds of labels.
      quiet: whether to print no progress on standard error.

    Returns:
      A report with `is_clean`, the counts `num_pictures` and `classes`, and the `findings`. Each finding has a `kind`,
      a flag `is_problem`, and `items`: the names of the images or classes, and details.

    Raises:
      UserError: the images cannot be listed.

    Example:
      >>> report = jaxft.check_data("digits", quiet=True)
      >>> report.num_pictures
      1797
    """
    from jaxft.data.checking import check_images

    spec = Images(data=os.fspath(data), domain=tuple(domain) if domain else None, label=label)
    with Progress(quiet) as progress:
        return check_images(spec, progress)
