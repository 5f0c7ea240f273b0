"""Reader of images in class folders, in a folder or an archive.

cat/1.jpg                 class/image
train/cat/1.jpg           split/class/image; a split is train, val or test, or a synonym (`SUBSETS`)
photo/train/cat/1.jpg     domain/split/class/image
photo/cat/1.jpg           domain/class/image, if no top folder is a split
"""

from pathlib import Path, PurePosixPath

from jaxft.core.errors import UserError
from jaxft.data.readers.file_names import SUBSETS, SUFFIXES, is_hidden, is_picture
from jaxft.data.readers.listing import ListedImage, Listing
from jaxft.data.readers.location import Location


def read_folders(location: Location) -> Listing | None:
    """Returns the images of class folders, or None if the location is not a folder or archive.

    Raises:
      UserError: a label is selected, there are no images, or an image is outside of the layouts.
    """
    if not location.is_container:
        return None
    path, members = location.path, location.members
    if location.label is not None:
        raise UserError(
            f"{str(path)!r} has no label {location.label!r}: its classes are the names of its folders; remove 'label'."
        )
    images = [(name, read) for name, read in members if is_picture(name)]
    if not images:
        raise UserError(f"{str(path)!r} contains no images; allowed suffixes: {', '.join(sorted(SUFFIXES))}.")
    while all(len(name.parts) > 2 for name, _ in images) and len({name.parts[0] for name, _ in images}) == 1:
        if images[0][0].parts[0].lower() in SUBSETS:
            break
        images = [(PurePosixPath(*name.parts[1:]), read) for name, read in images]
    images.sort(key=lambda member: member[0].parts)
    has_domains = all(len(name.parts) == 3 and name.parts[0].lower() not in SUBSETS for name, _ in images)
    skipped_files = [str(name) for name, _ in members if not is_picture(name) and not is_hidden(name)]
    return Listing(
        tuple(ListedImage(str(name), *_parse_folders(name, path, has_domains), read) for name, read in images),
        by_name=True,
        skipped_files=tuple(sorted(skipped_files)),
    )


def _parse_folders(name: PurePosixPath, path: Path, has_domains: bool) -> tuple[str, str, str]:
    """Returns the (class, split, domain) of an image. With `has_domains`, the first of two folders is the domain."""
    match name.parts[:-1]:
        case (class_name,):
            return class_name, "", ""
        case (subset, class_name) if subset.lower() in SUBSETS:
            return class_name, SUBSETS[subset.lower()], ""
        case (domain, class_name) if has_domains:
            return class_name, "", domain
        case (domain, subset, class_name) if subset.lower() in SUBSETS:
            return class_name, SUBSETS[subset.lower()], domain
    raise UserError(
        f"{str(path)!r} has the image '{name}' outside of the layouts class/image, train|val|test/class/image, "
        "domain/class/image and domain/train|val|test/class/image."
    )
