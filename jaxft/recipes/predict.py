"""The most probable classes of pictures, by any network."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from jaxft.core.errors import UserError

if TYPE_CHECKING:
    from jaxft.data.readers.archives import Member
    from jaxft.models import Network, Preprocessing
    from jaxft.weights import Manifest

# Networks for ImageNet are tested on the center of larger pictures: input size -> shorter side of the resized picture.
IMAGENET_RESIZE_PX = {224: 256, 227: 256}


def predict(
    weights: str | os.PathLike[str],
    pictures: Iterable[str | os.PathLike[str]],
    model: str | None = None,
    top: int = 5,
    batch_size: int = 32,
) -> "Iterator[Prediction]":
    """Returns an iterator over the predictions of pictures by a network, in the order of files.

    Pictures are prepared as the test images in training: the shorter side is resized to the size that the weights
    expect, or to a larger one if the network was trained on crops (`training.augmentation.crop.size_px`), and the
    center is cut out. Networks for ImageNet's own classes see the center 224 of 256 pixels, the usual test protocol. A
    picture that cannot be read has a `problem` and no classes.

    Args:
      weights: a weight file, written by jaxft or published.
      pictures: paths of pictures, and of folders and archives, which are searched for pictures.
      model: the network's name; if None, the network that the file is for.
      top: how many classes to return for each picture.
      batch_size: how many pictures are in memory at a time.

    Raises:
      UserError: the weights cannot be used, or there are no pictures.
    """
    members = find_pictures(pictures)
    return load_classifier(weights, model).predict(members, top, batch_size)


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one picture.

    Attributes:
      file: the picture's path; within an archive, the archive's path and the name in it.
      classes: the most probable classes, the best first: names, or numbers if the weight file has no names.
      probabilities: the probabilities of these classes, in [0, 1].
      truth: the class that the picture's folder is named after, or an empty string.
      problem: why the picture could not be read, or an empty string.
    """

    file: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    truth: str = ""
    problem: str = ""


def find_pictures(paths: "Iterable[str | os.PathLike[str]]") -> "list[Member]":
    """Returns (name, function that reads the file) for each picture at `paths`, those of a folder in order of names.

    A path of a file is taken for a picture whatever its name; in folders and archives the suffix decides.

    Raises:
      UserError: there is nothing at a path, or no picture in it.
    """
    from jaxft.data.readers.archives import is_archive, members_of
    from jaxft.data.readers.file_names import SUFFIXES, is_picture

    all_members: list[Member] = []
    for location in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = Path(location)
        if not path.exists():
            raise UserError(f"there is no picture, folder or archive {str(path)!r}.")
        if not path.is_dir() and not is_archive(path):
            all_members.append((PurePosixPath(path), path.read_bytes))
            continue
        members = sorted((m for m in members_of(path) if is_picture(m[0])), key=lambda member: member[0].parts)
        if not members:
            raise UserError(f"{str(path)!r} has no pictures in it ({', '.join(sorted(SUFFIXES))}).")
        all_members += [(PurePosixPath(path) / name, read) for name, read in members]
    if not all_members:
        raise UserError("there are no pictures to predict.")
    return all_members


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network, its weights, and the manifest of their file."""

    model: "Network"
    variables: dict[str, Any]
    manifest: "Manifest"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the names of the classes, or their numbers if the file has no names."""
        names, num_classes = self.manifest.class_names, self.model.num_classes
        return names if len(names) == num_classes else tuple(map(str, range(num_classes)))

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Returns the assumptions that had to be made, as sentences."""
        assumptions = []
        if len(self.manifest.class_names) != self.model.num_classes:
            named = f"{len(self.manifest.class_names):,} class names" if self.manifest.class_names else "no class names"
            assumptions.append(
                f"{self.manifest.file} has {named} for {self.model.num_classes:,} classes: numbers stand for them."
            )
        if self.manifest.assumed:
            assumptions.append(
                f"{self.manifest.file} does not say how pictures are to be prepared: {self.model.architecture}'s "
                "usual size and scaling are assumed."
            )
        return tuple(assumptions)

    def predict(self, members: "Sequence[Member]", top: int = 5, batch_size: int = 32) -> Iterator[Prediction]:
        """Returns an iterator over the predictions of pictures, of which `batch_size` are in memory at a time."""
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be 1 or more.")
        return self._predict(members, min(top, self.model.num_classes), min(batch_size, len(members)))

    def _predict(self, members: "Sequence[Member]", top: int, batch_size: int) -> Iterator[Prediction]:
        import numpy as np

        from jaxft.data.readers.attempts import try_each
        from jaxft.data.readers.pictures import decode

        resize_px, center = self._crop()
        rank = _make_rank(self.model, self.manifest.preprocessing, top)
        names, folders = self.class_names, _folders_of(self.class_names)
        size_px = self.manifest.preprocessing.size_px
        for begin in range(0, len(members), batch_size):
            batch = members[begin : begin + batch_size]
            decoded = try_each(lambda member: decode(member[1](), resize_px)[center, center], batch)
            images = np.zeros((batch_size, size_px, size_px, 3), np.uint8)  # always full: one program for all batches
            for image, (pixels, problem) in zip(images, decoded):
                if problem is None:
                    image[:] = pixels
            probabilities, classes = map(np.asarray, rank(self.variables, images))
            if not np.isfinite(probabilities).all():
                raise FloatingPointError(f"{self.manifest.file} overflows on these pictures: its logits are not finite")
            for i, ((name, _), (_, problem)) in enumerate(zip(batch, decoded, strict=True)):
                truth = folders.get(_plain(name.parent.name), "")
                if problem is not None:
                    yield Prediction(str(name), truth=truth, problem=problem)
                else:
                    best = tuple(names[label] for label in classes[i])
                    yield Prediction(str(name), best, tuple(probabilities[i].tolist()), truth)

    def _crop(self) -> tuple[int, slice]:
        """Returns the size that pictures are resized to, and the slice of its center that the network sees."""
        from jaxft.models.class_names import CLASS_NAMES

        size_px = self.manifest.preprocessing.size_px
        is_imagenet = self.class_names == CLASS_NAMES["imagenet"]
        usual_px = IMAGENET_RESIZE_PX.get(size_px, size_px) if is_imagenet else size_px
        resize_px = self.manifest.resize_px or usual_px
        margin = (resize_px - size_px) // 2
        return resize_px, slice(margin, margin + size_px)


def load_classifier(path: str | os.PathLike[str], name: str | None = None) -> Classifier:
    """Returns the network that the weight file at `path` is for, or the one called `name`, with its weights.

    Raises:
      UserError: the weights cannot be used, or have no classifier.
    """
    import jax

    from jaxft.weights import read_network

    model, variables, manifest = read_network(os.fspath(path), name)
    if model.head not in variables["params"]:
        raise UserError(f"{manifest.file} has no classifier to predict with; fine-tune it on your classes first.")
    kept = {collection: tree for collection, tree in variables.items() if collection != "counters"}
    return Classifier(model, jax.device_put(kept), manifest)


@functools.cache
def _make_rank(model: "Network", preprocessing: "Preprocessing", top: int) -> Callable[..., Any]:
    import jax

    def rank(variables: dict[str, Any], images: "jax.Array") -> tuple["jax.Array", "jax.Array"]:
        logits = model.apply(variables, preprocessing.apply(images))
        return jax.lax.top_k(jax.nn.softmax(logits, axis=-1), top)

    return jax.jit(rank)


def _folders_of(class_names: tuple[str, ...]) -> dict[str, str]:
    """Returns the class of a folder of pictures, by the names that the folder may have."""
    from jaxft.models.class_names import CLASS_NAMES, imagenet_classes

    folders = {_plain(name): name for name in class_names}
    if class_names == CLASS_NAMES["imagenet"]:
        folders |= imagenet_classes()  # by WordNet id, as ImageNet's own folders
    return folders


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()
