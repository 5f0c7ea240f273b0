"""`jaxft predict`: what a network says of pictures."""

import argparse
import collections
import contextlib
import csv
import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from jaxft.core.errors import UserError
from jaxft.tracking.console import LOG_SECONDS, duration

if TYPE_CHECKING:
    from jaxft.data.readers.archives import Member
    from jaxft.models import Network, Preprocessing
    from jaxft.weights.files import Manifest

# Networks for ImageNet are tested on the centre of pictures that are larger: the shorter side, by the size they take.
IMAGENET_PX = {224: 256, 227: 256}

HELP = "say what is on pictures: the most probable classes, by any network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("pictures", nargs="+", metavar="PICTURES", help="pictures, folders or archives of them")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the network's weights")
    parser.add_argument("--model", metavar="NAME", help="the network; by default the one that the file is for")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to tell (default: 5)")
    parser.add_argument("--csv", metavar="OUT.csv", help="write the rows there instead of printing them")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="how many pictures at a time (default: 32)"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the table, or writes it, and the accuracy where folders are named after classes."""
    if args.csv is not None and (Path(args.csv).is_dir() or not Path(args.csv).parent.is_dir()):
        raise UserError(f"--csv {args.csv!r} is no file in a folder that is there.")
    members = find_pictures(args.pictures)
    classifier = load_classifier(args.weights, args.model)
    predictions = classifier.predict(members, args.top, args.batch_size)
    for note in classifier.notes:
        _say(note)
    tally = Tally()
    with contextlib.ExitStack() as stack:
        show = stack.enter_context(_rows_of_csv(args.csv) if args.csv else _rows_of_table(members))
        advance = stack.enter_context(_progress(len(members)))
        for prediction in predictions:
            if prediction.problem:
                _say(f"jaxft: the picture {prediction.file!r} cannot be read: {prediction.problem}.")
            else:
                show(prediction)
            tally.add(prediction)
            advance()
    for line in tally.lines():
        print(line)
    if args.csv:
        print(f"predictions: {args.csv}")
    return 1 if tally.unread else 0


def predict(
    weights: str | os.PathLike[str],
    pictures: Iterable[str | os.PathLike[str]],
    model: str | None = None,
    top: int = 5,
    batch_size: int = 32,
) -> "Iterator[Prediction]":
    """Returns an iterator over what a network says of each picture, in the order of files.

    Args:
      weights: a weight file, written by jaxft or published.
      pictures: paths of pictures, and of folders and archives, which are searched for pictures.
      model: the network's name, by default that which the file is for.
      top: how many classes to tell.
      batch_size: how many pictures are in memory at a time.

    Pictures are resized and cut as in training: the shorter side to the size that the weights expect, or to a larger
    one where the network was trained on crops (`training.augmentation.crop.size_px`), the center kept. Networks for
    ImageNet's own classes see the center 224 of 256 pixels, as is usual when they are tested. A picture that cannot be
    read has a `problem` and no classes.

    Raises:
      UserError: the weights cannot be used, or there are no pictures.
    """
    members = find_pictures(pictures)
    return load_classifier(weights, model).predict(members, top, batch_size)


@dataclass(frozen=True)
class Prediction:
    """What a network says of one picture.

    Attributes:
      file: the picture's path; within an archive, the archive's path and the name in it.
      classes: the most probable classes, the best first: names, or numbers where the weight file has no names.
      probabilities: theirs, in [0, 1].
      truth: the class that the picture's folder is named after, or an empty string.
      problem: why the picture could not be read, or an empty string.
    """

    file: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    truth: str = ""
    problem: str = ""


def find_pictures(paths: "Iterable[str | os.PathLike[str]]") -> "list[Member]":
    """Returns the pictures at `paths`: their names and how to read them, those of a folder in the order of names.

    A file is taken for a picture whatever its name; in folders and archives the suffix decides.

    Raises a `UserError` where there is nothing at a path, or no picture in it.
    """
    from jaxft.data.readers.archives import is_archive, members_of
    from jaxft.data.readers.pictures import SUFFIXES, is_picture

    found: list[Member] = []
    for given in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = Path(given)
        if not path.exists():
            raise UserError(f"there is no picture, folder or archive {str(path)!r}.")
        if not path.is_dir() and not is_archive(path):
            found.append((PurePosixPath(path), path.read_bytes))
            continue
        members = sorted((m for m in members_of(path) if is_picture(m[0])), key=lambda member: member[0].parts)
        if not members:
            raise UserError(f"{str(path)!r} has no pictures in it ({', '.join(sorted(SUFFIXES))}).")
        found += [(PurePosixPath(path) / name, read) for name, read in members]
    if not found:
        raise UserError("there are no pictures to predict.")
    return found


# --- the network ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network with its weights and what its file says of them."""

    model: "Network"
    variables: dict[str, Any]
    manifest: "Manifest"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the names of the classes, or their numbers where the file has no names."""
        names, num_classes = self.manifest.class_names, self.model.num_classes
        return names if len(names) == num_classes else tuple(map(str, range(num_classes)))

    @property
    def notes(self) -> tuple[str, ...]:
        """Returns what had to be assumed, as sentences."""
        notes = []
        if len(self.manifest.class_names) != self.model.num_classes:
            named = f"{len(self.manifest.class_names):,} class names" if self.manifest.class_names else "no class names"
            notes.append(
                f"{self.manifest.file} has {named} for {self.model.num_classes:,} classes: numbers stand for them."
            )
        if self.manifest.assumed:
            notes.append(
                f"{self.manifest.file} does not say how pictures are to be prepared: {self.model.architecture}'s "
                "usual size and scaling are assumed."
            )
        return tuple(notes)

    def predict(self, members: "Sequence[Member]", top: int = 5, batch_size: int = 32) -> Iterator[Prediction]:
        """Returns an iterator over what the network says of each picture, `batch_size` of them in memory at a time."""
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be 1 or more.")
        return self._predict(members, min(top, self.model.num_classes), min(batch_size, len(members)))

    def _predict(self, members: "Sequence[Member]", top: int, batch_size: int) -> Iterator[Prediction]:
        import numpy as np

        from jaxft.data.readers.pictures import decode, try_each
        from jaxft.models.class_names import CLASS_NAMES

        size = self.manifest.preprocessing.size_px
        usual = IMAGENET_PX.get(size, size) if self.class_names == CLASS_NAMES["imagenet"] else size
        whole = self.manifest.resize_px or usual
        centre = slice((whole - size) // 2, (whole - size) // 2 + size)
        rank = _make_rank(self.model, self.manifest.preprocessing, top)
        names, folders = self.class_names, _folders_of(self.class_names)
        for begin in range(0, len(members), batch_size):
            batch = members[begin : begin + batch_size]
            decoded = try_each(lambda member: decode(member[1](), whole)[centre, centre], batch)
            images = np.zeros((batch_size, size, size, 3), np.uint8)  # always full: one program for all batches
            for image, (pixels, problem) in zip(images, decoded):
                if problem is None:
                    image[:] = pixels
            probabilities, classes = map(np.asarray, rank(self.variables, images))
            if not np.isfinite(probabilities).all():
                raise FloatingPointError(f"{self.manifest.file} overflows on these pictures: its logits are not finite")
            for i, ((name, _), (_, problem)) in enumerate(zip(batch, decoded)):
                truth = folders.get(_plain(name.parent.name), "")
                if problem is not None:
                    yield Prediction(str(name), truth=truth, problem=problem)
                else:
                    best = tuple(names[label] for label in classes[i])
                    yield Prediction(str(name), best, tuple(probabilities[i].tolist()), truth)


def load_classifier(path: str | os.PathLike[str], name: str | None = None) -> Classifier:
    """Returns the network that the weight file at `path` is for, or the one called `name`, with its weights."""
    import jax

    from jaxft.weights.files import read_network

    model, variables, manifest = read_network(os.fspath(path), name)
    if model.units[-1] not in variables["params"]:
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
    """Returns the class by the names that a folder of its pictures may have."""
    from jaxft.models.class_names import CLASS_NAMES, imagenet_classes

    folders = {_plain(name): name for name in class_names}
    if class_names == CLASS_NAMES["imagenet"]:
        folders |= imagenet_classes()  # by WordNet id, as ImageNet's own folders
    return folders


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()


# --- what is shown ----------------------------------------------------------------------------------------------


class Tally:
    """Counts the pictures that could not be read, and how often the class of a picture's folder was found."""

    def __init__(self) -> None:
        self.unread = self.total = 0
        self._top = 0
        self._counts: dict[str, collections.Counter[str]] = {}
        self._classes: dict[str, dict[str, list[bool]]] = {}

    def add(self, prediction: Prediction) -> None:
        """Counts a picture."""
        from jaxft.data.readers.listings import PARTS

        self.total += 1
        self.unread += bool(prediction.problem)
        if not prediction.truth or prediction.problem:
            return
        self._top = len(prediction.classes)
        part = PARTS.get(PurePosixPath(prediction.file).parent.parent.name.lower(), "")
        counts = self._counts.setdefault(part, collections.Counter())
        counts["pictures"] += 1
        right = prediction.classes[0] == prediction.truth
        counts["right"] += right
        of_class = self._classes.setdefault(part, {}).setdefault(prediction.truth, [])
        of_class.append(right)
        counts["near"] += prediction.truth in prediction.classes

    def lines(self) -> list[str]:
        """Returns a line about accuracy for each part of the pictures, and one about those that were not read."""
        lines = []
        for part, counts in self._counts.items():
            of, right, near = counts["pictures"], counts["right"], counts["near"]
            where = f" in {part}" if part else ""
            among = f"; among the first {self._top}: {near / of:.1%}" if self._top > 1 else ""
            classes = self._classes[part].values()
            if len({len(found) for found in classes}) > 1:
                mean = sum(sum(found) / len(found) for found in classes) / len(classes)
                among += f"; mean over the classes: {mean:.1%}"
            lines.append(
                f"accuracy{where}: {right / of:.1%} ({right:,} of the {of:,} pictures whose folder is named after a "
                f"class){among}"
            )
        if self.unread:
            lines.append(f"{self.unread:,} of {self.total:,} pictures cannot be read.")
        return lines


Show = Callable[[Prediction], None]


@contextlib.contextmanager
def _rows_of_table(members: "Sequence[Member]") -> Iterator[Show]:
    """Yields a function that prints a picture's rows; columns are as wide as the longest name, within reason."""
    width = min(max(len(str(name)) for name, _ in members), 60)

    def show(prediction: Prediction) -> None:
        file = prediction.file
        for name, probability in zip(prediction.classes, prediction.probabilities):
            print(f"{file:<{width}}  {100 * probability:>5.1f}  {name}")
            file = ""

    print(f"{'picture':<{width}}  {'%':>5}  class")
    yield show


@contextlib.contextmanager
def _rows_of_csv(path: str) -> Iterator[Show]:
    """Yields a function that writes a picture's rows to the CSV file at `path`, which appears when all are there."""
    from jaxft.core.files import replacing, saying_what_is_wrong

    with (
        saying_what_is_wrong(Path(path)),
        replacing(Path(path)) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["file", "rank", "class", "probability"])

        def show(prediction: Prediction) -> None:
            for rank, (name, probability) in enumerate(zip(prediction.classes, prediction.probabilities), 1):
                writer.writerow([prediction.file, rank, name, f"{probability:.6g}"])

        yield show


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Yields a function that counts a picture: a bar on a terminal, a line now and then in a log."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (BarColumn(bar_width=24), MofNCompleteColumn(), "pictures", TimeRemainingColumn())
        # A table that goes to a file must not be drawn above the bar.
        above = sys.stdout.isatty()
        with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=above) as progress:
            task = progress.add_task("", total=total)
            yield lambda: progress.advance(task)
        return
    done, started, last_line = 0, time.monotonic(), time.monotonic()

    def advance() -> None:
        nonlocal done, last_line
        done += 1
        now = time.monotonic()
        if now - last_line > LOG_SECONDS and done < total:
            last_line = now
            _say(f"{done:,}/{total:,} pictures, {duration((now - started) / done * (total - done))} left")

    yield advance


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
