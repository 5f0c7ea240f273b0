"""Reader of images in class folders, in a folder or an archive. `layout` decides what the folders are."""

from pathlib import PurePosixPath

from jaxft.core.errors import UserError
from jaxft.core.text import shown
from jaxft.data.readers.file_names import formats_by_suffix, is_hidden, is_picture
from jaxft.data.readers.layout import LayoutError, find_layout
from jaxft.data.readers.listing import ListedImage, Listing
from jaxft.data.readers.location import Location


def read_folders(location: Location) -> Listing | None:
    """Returns the images of class folders, or None if the location is not a folder or archive.

    Raises:
      UserError: a label is selected, there are no images, or the images have no layout, or an ambiguous one.
    """
    if not location.is_container:
        return None
    path, members = location.path, location.members
    if location.label is not None:
        raise UserError(
            f"{str(path)!r} has no label {shown(location.label)}: its classes are the names of its folders; remove "
            "'label'."
        )
    images = [(name, read) for name, read in members if is_picture(name)]
    if not images:
        raise UserError(f"{str(path)!r} contains no images; allowed suffixes: {', '.join(formats_by_suffix())}.")
    others = [name for name, _ in members if not is_picture(name) and not is_hidden(name)]
    try:
        layout = find_layout([name for name, _ in images], [*location.folders, *(name.parent for name in others)])
    except LayoutError as error:
        raise UserError(f"{str(path)!r} {error}") from None
    listed = [
        ListedImage(labeled.name, labeled.class_name, labeled.subset, labeled.domain, read)
        for labeled, (_, read) in zip(layout.images, images)
        if labeled is not None
    ]
    listed.sort(key=lambda image: PurePosixPath(image.name).parts)
    return Listing(
        tuple(listed),
        by_name=True,
        skipped_files=tuple(sorted(map(str, others))),
        layout=layout,
    )
