"""Pictures in class folders, below a folder or in an archive.

cat/1.jpg                 class/picture
train/cat/1.jpg           part/class/picture, where a part is train, val or test (PARTS has other words for them)
photo/train/cat/1.jpg     domain/part/class/picture
photo/cat/1.jpg           domain/class/picture, where no folder at the top is a part
"""

from pathlib import Path, PurePosixPath

from jaxft.core.errors import UserError
from jaxft.data.readers.file_names import SUBSETS, SUFFIXES, is_hidden, is_picture
from jaxft.data.readers.listing import ListedPicture, Listing
from jaxft.data.readers.location import Location


def read_folders(location: Location) -> Listing | None:
    """Returns the pictures of class folders, below a folder or in an archive."""
    if not location.is_container:
        return None
    path, members = location.path, location.members
    if location.label is not None:
        raise UserError(f"{str(path)!r} has no labels {location.label!r}: its classes are the names of its folders.")
    pictures = [(name, read) for name, read in members if is_picture(name)]
    if not pictures:
        raise UserError(f"{str(path)!r} has no images in it ({', '.join(sorted(SUFFIXES))}).")
    while all(len(name.parts) > 2 for name, _ in pictures) and len({name.parts[0] for name, _ in pictures}) == 1:
        if pictures[0][0].parts[0].lower() in SUBSETS:
            break
        pictures = [(PurePosixPath(*name.parts[1:]), read) for name, read in pictures]
    pictures.sort(key=lambda member: member[0].parts)
    domains = all(len(name.parts) == 3 and name.parts[0].lower() not in SUBSETS for name, _ in pictures)
    passed_over = [str(name) for name, _ in members if not is_picture(name) and not is_hidden(name)]
    return Listing(
        tuple(ListedPicture(str(name), *_parse_folders(name, path, domains), read) for name, read in pictures),
        by_name=True,
        passed_over=tuple(sorted(passed_over)),
    )


def _parse_folders(name: PurePosixPath, path: Path, domains: bool) -> tuple[str, str, str]:
    """Returns the class, the part and the domain that a picture's folders tell; `domains`: the first of two is one."""
    match name.parts[:-1]:
        case (class_name,):
            return class_name, "", ""
        case (subset, class_name) if subset.lower() in SUBSETS:
            return class_name, SUBSETS[subset.lower()], ""
        case (domain, class_name) if domains:
            return class_name, "", domain
        case (domain, subset, class_name) if subset.lower() in SUBSETS:
            return class_name, SUBSETS[subset.lower()], domain
    raise UserError(
        f"{str(path)!r} has the picture '{name}' outside of the layout class/picture, train|val|test/class/picture, "
        "domain/class/picture or domain/train|val|test/class/picture."
    )
