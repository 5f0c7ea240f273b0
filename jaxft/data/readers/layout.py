"""Layout of class folders: which folders are classes, splits and domains, decided from the names of the images alone.

cat/1.jpg                 class/image
train/cat/1.jpg           split/class/image
cat/train/1.jpg           class/split/image
photo/train/cat/1.jpg     domain/split/class/image
photo/cat/1.jpg           domain/class/image

`file_names.subset_of` decides which names are splits. All images must have one layout.
"""

import collections
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from jaxft.core.text import plural, some_of
from jaxft.data.readers.file_names import meaning_of, mentions_split, subset_of

CLASS, SPLIT, DOMAIN = "class", "split", "domain"

Roles = tuple[str, ...]
Folders = tuple[str, ...]  # the folders of an image, outermost first

# If several layouts fit all images, the first one holds.
LAYOUTS: tuple[Roles, ...] = (
    (CLASS,),
    (SPLIT, CLASS),
    (CLASS, SPLIT),
    (DOMAIN, SPLIT, CLASS),
    (DOMAIN, CLASS),
)


class LayoutError(Exception):
    """The images have no layout, or an ambiguous one. The message continues the name of the location."""


@dataclass(frozen=True)
class LabeledName:
    """The labels of an image by its folders.

    Attributes:
      name: the path of the image, without the folders around everything.
      class_name: name of the class.
      subset: the split, 'train', 'val' or 'test', or '' if the data have no splits.
      domain: the domain, or ''.
    """

    name: str
    class_name: str
    subset: str
    domain: str


@dataclass(frozen=True)
class Layout:
    """The folders of an image set.

    Attributes:
      images: the labels of each image; None for images without a class, which are left out.
      splits: the split of each folder that is a split.
      unlabeled: number of images that are left out, by folder.
      empty: class folders, and splits at the top, that contain no images.
    """

    images: tuple[LabeledName | None, ...]
    splits: Mapping[str, str]
    unlabeled: Mapping[str, int]
    empty: tuple[str, ...]

    def __str__(self) -> str:
        """Returns the roles of the folders: 'classes cat, dog; splits test_set (test), training_set (train)'."""
        labeled = [image for image in self.images if image is not None]
        splits = [name if name == subset else f"{name} ({subset})" for name, subset in self.splits.items()]
        names_by_role = {
            "classes": sorted({image.class_name for image in labeled}),
            "splits": sorted(splits),
            "domains": sorted({image.domain for image in labeled if image.domain}),
        }
        return "; ".join(f"{role} {some_of(names, 6)}" for role, names in names_by_role.items() if names)


def find_layout(names: Sequence[PurePosixPath], bare: Iterable[PurePosixPath] = ()) -> Layout:
    """Returns the layout of images.

    Args:
      names: the path of each image in its folder or archive, at least one.
      bare: folders without images.

    Raises:
      LayoutError: no layout fits all images, or the layout is ambiguous.
    """
    outer = _outer_folders(names)
    inner = [name.parts[len(outer) :] for name in names]
    twice = _doubled_splits({parts[:-1] for parts in inner})
    folders = [_without_double(parts[:-1], twice) for parts in inner]
    tree = _Tree(collections.Counter(folders), {})
    for parts, path in zip(inner, folders):
        tree.examples[path] = min(_joined(parts), tree.examples.get(path, _joined(parts)))
    unlabeled = _unlabeled(tree)
    roles = _roles_of(tree.without(unlabeled))
    used = {path[: i + 1] for path in tree.counts for i in range(len(path))}
    bare_folders = {
        _without_double(folder.parts[len(outer) :], twice) for folder in bare if folder.parts[: len(outer)] == outer
    }
    images = [
        None if path[0] in unlabeled else _labeled_name(_joined(parts), path, roles)
        for parts, path in zip(inner, folders)
    ]
    return Layout(
        images=tuple(images),
        splits=_splits(tree.without(unlabeled).counts, roles),
        unlabeled=unlabeled,
        empty=tuple(sorted(_empty(bare_folders, used, roles))),
    )


@dataclass(frozen=True)
class _Tree:
    """The folders that contain images directly: the number of images of each, and the name of one image."""

    counts: collections.Counter[Folders]
    examples: dict[Folders, str]

    def without(self, tops: Container[str]) -> "_Tree":
        """Returns the folders that are not in the folders `tops`."""
        counts = {path: count for path, count in self.counts.items() if path[0] not in tops}
        return _Tree(collections.Counter(counts), {path: self.examples[path] for path in counts})


def _splits(paths: Iterable[Folders], roles: Roles) -> dict[str, str]:
    """Returns the split of each folder that is a split."""
    if SPLIT not in roles:
        return {}
    at = roles.index(SPLIT)
    return {path[at]: subset_of(path[at]) for path in paths}


def _labeled_name(name: str, folders: Folders, roles: Roles) -> LabeledName:
    by_role = dict(zip(roles, folders))
    return LabeledName(name, by_role[CLASS], subset_of(by_role.get(SPLIT, "")), by_role.get(DOMAIN, ""))


def _outer_folders(names: Sequence[PurePosixPath]) -> Folders:
    """Returns the folders that contain all images, and are neither a class nor a split."""
    outer: Folders = ()
    while True:
        depth = len(outer)
        stray = [name for name in names if len(name.parts) == depth + 1]
        if len(stray) == len(names):
            raise LayoutError(
                f"has no class folders: its images, such as '{stray[0]}', are in one folder; move the images of each "
                "class to a folder of its own, or list their classes in a table."
            )
        if stray:
            raise LayoutError(
                f"has {plural(len(stray), 'image')} in no class folder, such as '{stray[0]}', and "
                f"{plural(len(names) - len(stray), 'image')} in folders; move or delete the former."
            )
        tops = {name.parts[depth] for name in names}
        deeper = [name.parts[depth + 1] for name in names if len(name.parts) > depth + 2]
        top = names[0].parts[depth]
        if len(tops) > 1 or 2 * len(deeper) <= len(names) or (subset_of(top) and not all(map(subset_of, deeper))):
            return outer
        outer = (*outer, top)


def _doubled_splits(paths: Iterable[Folders]) -> set[str]:
    """Returns the top folders that contain only a folder of the same meaning, as in 'seg_train/seg_train'.

    A name that is also inside another top folder is a class.
    """
    inside: dict[str, set[str]] = {}
    for path in paths:
        inside.setdefault(path[0], set()).add(path[1] if len(path) > 1 else "")
    tops_with = collections.Counter(name for names in inside.values() for name in names)
    return {
        top
        for top, names in inside.items()
        if len(names) == 1
        for name in names
        if tops_with[name] == 1 and meaning_of(top) and meaning_of(top) == meaning_of(name)
    }


def _without_double(path: Folders, twice: set[str]) -> Folders:
    return (path[0], *path[2:]) if path and path[0] in twice else path


def _unlabeled(tree: _Tree) -> dict[str, int]:
    """Returns the number of images in each top folder of images without a class, next to splits with classes."""
    deeper = {path[0] for path in tree.counts if len(path) > 1}
    with_classes = sorted(top for top in deeper if subset_of(top))
    if not with_classes:
        return {}
    flat = sorted(path for path in tree.counts if path[0] not in deeper and meaning_of(path[0]))
    for path in flat:
        if subset_of(path[0]) == "train":
            raise LayoutError(
                f"has class folders in the split {with_classes[0]!r}, but training images without a class, such as "
                f"'{tree.examples[path]}'; move the images of each class to a folder {path[0]}/CLASS."
            )
    return {path[0]: tree.counts[path] for path in flat}


def _roles_of(tree: _Tree) -> Roles:
    """Returns the roles of the folders of labeled images.

    Raises:
      LayoutError: no layout fits all images, or the layout is ambiguous.
    """
    total = tree.counts.total()
    counts = {roles: sum(count for path, count in tree.counts.items() if _fits(path, roles)) for roles in LAYOUTS}
    fitting = [roles for roles in LAYOUTS if counts[roles] == total]
    if not fitting:
        best = max(LAYOUTS, key=lambda roles: counts[roles])
        spoiling = min(name for path, name in tree.examples.items() if not _fits(path, best))
        layout = f"layout {_text(best)} of {counts[best]:,} of its {total:,} images" if counts[best] else "layouts"
        allowed = ", ".join(map(_text, LAYOUTS))
        raise LayoutError(f"has the image '{spoiling}' outside of the {layout}; all images need one layout: {allowed}.")
    if (SPLIT, CLASS) in fitting and (CLASS, SPLIT) in fitting:
        raise _ambiguous({path[0] for path in tree.counts}, (SPLIT, CLASS), (CLASS, SPLIT))
    roles = fitting[0]
    if roles == (CLASS,):
        _check_classes(tree)
    if roles == (DOMAIN, CLASS):
        _check_domains(tree.counts)
    if SPLIT in roles:
        _check_splits(sorted(tree.counts), roles.index(SPLIT))
    return roles


def _fits(path: Folders, roles: Roles) -> bool:
    return len(path) == len(roles) and all(
        role == CLASS or (role == SPLIT) == bool(subset_of(folder)) for role, folder in zip(roles, path)
    )


def _check_classes(tree: _Tree) -> None:
    """Checks that class folders are not splits without classes. A single class may be named like a split."""
    splits = sorted(path for path in tree.counts if subset_of(path[0]))
    if len(splits) == len(tree.counts):
        (top,) = splits[0]
        raise LayoutError(
            f"has images without a class: '{tree.examples[splits[0]]}' is directly in the split {top!r}; move the "
            f"images of each class to a folder {top}/CLASS, or list their classes in a table."
        )
    if len(splits) > 1:
        raise _ambiguous((path[0] for path in splits), (CLASS,), (SPLIT,))


def _check_domains(paths: Collection[Folders]) -> None:
    """Checks that neither the domains nor the classes may be splits."""
    splits = {path[1] for path in paths if subset_of(path[1])}
    if len({subset_of(name) for name in splits}) > 1:
        raise _ambiguous(splits, (DOMAIN, CLASS), (CLASS, SPLIT))
    domains = {path[0] for path in paths if mentions_split(path[0])}
    if domains:
        raise _ambiguous(domains, (DOMAIN, CLASS), (SPLIT, CLASS))


def _check_splits(paths: Sequence[Folders], split_at: int) -> None:
    """Checks that no two folders side by side are the same split."""
    name_of: dict[tuple[Folders, str], str] = {}
    for path in paths:
        folder = path[split_at]
        other = name_of.setdefault((path[:split_at], subset_of(folder)), folder)
        if other != folder:
            raise LayoutError(
                f"has two folders for the split {subset_of(folder)!r}, {other!r} and {folder!r}; merge them, or rename "
                "one to train, val or test."
            )


def _ambiguous(folders: Iterable[str], one: Roles, other: Roles) -> LayoutError:
    names = some_of([repr(name) for name in sorted(folders)])
    return LayoutError(
        f"can be read in two ways: with the folders {names} as {_text(one)} or as {_text(other)}; name splits train, "
        "val and test and nothing else so, or list the images in a table."
    )


def _joined(parts: Folders) -> str:
    return "/".join(parts).replace("//", "/")  # the first part of an absolute name is a slash


def _text(roles: Roles) -> str:
    return "/".join((*roles, "image"))


def _empty(bare: Iterable[Folders], used: set[Folders], roles: Roles) -> Iterator[str]:
    """Yields the class folders, and the splits at the top, that contain no images."""
    class_depth = roles.index(CLASS) + 1
    prefixes = {path[:depth] for path in bare for depth in range(1, len(path) + 1)} - used
    for path in prefixes:
        above = all((role == SPLIT) == bool(subset_of(name)) for role, name in zip(roles[: class_depth - 1], path))
        is_class = len(path) == class_depth and above
        is_split = roles[0] == SPLIT and len(path) == 1 and bool(subset_of(path[0]))
        if is_class or is_split:
            yield "/".join(path)
