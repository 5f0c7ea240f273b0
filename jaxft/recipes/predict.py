"""Predicts the most probable classes of images, with any network."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from jaxft.core.errors import UserError
from jaxft.recipes.load import LoadedNetwork, load

if TYPE_CHECKING:
    import numpy as np

    from jaxft.data.readers.archives import Member


def predict(
    weights: str | os.PathLike[str] | LoadedNetwork,
    pictures: Iterable[str | os.PathLike[str]],
    model: str | None = None,
    top: int = 5,
    batch_size: int = 32,
) -> "Iterator[Prediction]":
    """Returns an iterator over the predictions of a network for images, in the order of the files.

    Images are preprocessed like the test images in training. The shorter side is resized to the input size of the
    weights, or to a larger size if the network was trained on crops (`training.augmentation.crop.size_px`); then the
    center is cropped. Networks for the 1,000 classes of ImageNet use the usual test protocol, such as the center 224 of
    256 pixels. The prediction of an image that cannot be read has a `problem` and no classes.

    Args:
      weights: a weight file, `package:NAME`, or a network from `jaxft.load`.
      pictures: paths of image files, and of folders and archives to search for images.
      model: the name of the network of a weight file. If None, the file or its name determines the network.
      top: the number of classes to return for each image.
      batch_size: the number of images in a batch.

    Raises:
      UserError: the weights cannot be used, or there are no images.

    Example:
      >>> for prediction in jaxft.predict("runs/mine/weights.pth", ["some.jpg", "a_folder"], top=1):
      ...     print(prediction.file, prediction.classes[0], prediction.probabilities[0])
    """
    members = find_pictures(pictures)
    network = weights if isinstance(weights, LoadedNetwork) else load(weights, model)
    return predict_members(network, members, top, batch_size)


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image.

    Attributes:
      file: the path of the image. In an archive, the path of the archive and the name of the image in it.
      classes: the most probable classes, most probable first: names, or numbers if the weight file has no names.
      probabilities: the probabilities of these classes, in [0, 1].
      truth: the class that the folder of the image is named after, or an empty string.
      problem: why the image cannot be read, or an empty string.
      subset: the split that the image is in: 'train', 'val', 'test', or an empty string.
    """

    file: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    truth: str = ""
    problem: str = ""
    subset: str = ""


def find_pictures(paths: "Iterable[str | os.PathLike[str]]") -> "list[Member]":
    """Returns (name, function that reads the file) for each image at `paths`.

    The file at a path is taken as an image, even without the suffix of an image format. Images in folders and archives
    are found by their suffix and sorted by name.

    Raises:
      UserError: a path does not exist, or a folder or archive contains no images.
    """
    from jaxft.data.readers.archives import is_archive, members_of, printable, read_on_disk
    from jaxft.data.readers.file_names import formats_by_suffix, is_picture

    all_members: list[Member] = []
    for location in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = Path(location)
        if not path.exists():
            raise UserError(f"there is no image, folder or archive {str(path)!r}.")
        if not path.is_dir() and not is_archive(path):
            all_members.append((PurePosixPath(printable(str(path))), partial(read_on_disk, path)))
            continue
        members = sorted((m for m in members_of(path) if is_picture(m[0])), key=lambda member: member[0].parts)
        if not members:
            raise UserError(f"{str(path)!r} contains no images ({', '.join(formats_by_suffix())}).")
        all_members += [(PurePosixPath(printable(str(path))) / name, read) for name, read in members]
    if not all_members:
        raise UserError("there are no images to predict; name files, folders or archives.")
    return all_members


def predict_members(
    network: LoadedNetwork, members: "Sequence[Member]", top: int = 5, batch_size: int = 32
) -> Iterator[Prediction]:
    """Returns an iterator over the predictions of images, which are read in batches of `batch_size`.

    Args:
      network: a network with a classifier.
      members: names of images, and functions that read them, from `find_pictures`.
      top: the number of classes to return for each image.
      batch_size: the number of images in a batch.

    Raises:
      UserError: `top` or `batch_size` is below 1, or the network has no classifier.
      FloatingPointError: logits are not finite, while iterating.
    """
    for name, value in (("top", top), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}; it must be 1 or more.")
    network.check_classifier()
    return _predict_members(network, members, min(top, network.model.num_classes), min(batch_size, len(members)))


def _predict_members(
    network: LoadedNetwork, members: "Sequence[Member]", top: int, batch_size: int
) -> Iterator[Prediction]:
    import numpy as np

    names, folders = network.class_names, _folders_of(network)
    labels = class_folders([name for name, _ in members])
    for begin, images, problems in decoded_batches(network, members, batch_size):
        probabilities = network.predict(images, batch_size)
        classes = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        for i, problem in enumerate(problems):
            file = str(members[begin + i][0])
            class_folder, subset = labels[begin + i]
            truth = folders.get(_plain(class_folder), "")
            if problem is not None:
                yield Prediction(file, truth=truth, problem=problem, subset=subset)
            else:
                best = tuple(names[label] for label in classes[i])
                yield Prediction(file, best, tuple(probabilities[i, classes[i]].tolist()), truth, subset=subset)


def decoded_batches(
    network: LoadedNetwork, members: "Sequence[Member]", batch_size: int
) -> "Iterator[tuple[int, np.ndarray, list[str | None]]]":
    """Yields (index of the first image, images, problems) of batches of images, resized and cropped for the network.

    images is [batch_size, size_px, size_px, 3] uint8, with zeros for images that cannot be read and after the last
    image. problems says for each image of the batch why it cannot be read, or None.

    Args:
      network: the network, whose crop is used.
      members: names of images, and functions that read them, from `find_pictures`.
      batch_size: the number of images in a batch.
    """
    import numpy as np

    from jaxft.data.readers.attempts import try_each
    from jaxft.data.readers.pictures import decode

    resize_px, center = network.crop
    size_px = network.preprocessing.size_px
    for begin in range(0, len(members), batch_size):
        batch = members[begin : begin + batch_size]
        decoded = try_each(lambda member: decode(member[1](), resize_px)[center, center], batch)
        images = np.zeros((batch_size, size_px, size_px, 3), np.uint8)  # one shape, so one program for all batches
        for image, (pixels, problem) in zip(images, decoded):
            if problem is None:
                image[:] = pixels
        yield begin, images, [problem for _, problem in decoded]


def class_folders(names: Sequence[PurePosixPath]) -> list[tuple[str, str]]:
    """Returns the (class folder, split) of each image, as in training; of images without a layout, the inner folder."""
    from jaxft.data.readers.layout import LayoutError, find_layout

    try:
        labeled = find_layout(names).images
    except LayoutError:
        return [(name.parent.name, "") for name in names]
    return [("", "") if image is None else (image.class_name, image.subset) for image in labeled]


def _folders_of(network: LoadedNetwork) -> dict[str, str]:
    """Returns the class of each folder name that stands for a class. A network without class names has none."""
    from jaxft.models.class_names import CLASS_NAMES, imagenet_classes

    if not network.has_class_names:
        return {}
    folders = {_plain(name): name for name in network.class_names}
    if network.class_names == CLASS_NAMES["imagenet"]:
        folders |= imagenet_classes()  # the folders of ImageNet are WordNet ids
    return folders


def _plain(name: str) -> str:
    """Returns `name` without case, and with spaces for underscores."""
    return name.replace("_", " ").casefold()
