"""`jaxft predict`: prints the most probable classes of images."""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.commands.arguments import add_read_arguments, read_options
from jaxft.core.csv_files import row_writer
from jaxft.core.errors import UserError
from jaxft.core.events import Warned, print_warnings
from jaxft.core.files import check_new
from jaxft.core.metrics import METRICS
from jaxft.core.printing import print_lines
from jaxft.core.text import duration, escaped, percent
from jaxft.recipes.load import load
from jaxft.recipes.predict import Prediction, find_pictures, predict_members
from jaxft.recipes.tally import Tally
from jaxft.tracking.console import LOG_SECONDS

if TYPE_CHECKING:
    from jaxft.data.readers.archives import Member

HELP = "print the most probable classes of images, and the accuracy if their folders are named after classes"
COMPUTES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("pictures", nargs="+", metavar="PICTURES", help="image files, folders or archives of images")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="file of weights, such as weights.pth from `jaxft finetune`, or package:NAME for weights in an installed "
        "Python package",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="architecture of the weights, as in `jaxft models` (default: from the file)"
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="number of classes to print for each image (default: 5)"
    )
    parser.add_argument("--csv", metavar="OUT.csv", help="write the predictions to this file instead of printing them")
    parser.add_argument("--force", action="store_true", help="replace the file of --csv if it exists")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="number of images in a batch (default: 32)"
    )
    add_read_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints or writes the predictions, then the accuracy. Returns 1 if an image cannot be read.

    Raises:
      UserError: --csv is a folder, in a missing folder or an existing file, the weights cannot be used, or there are
        no images.
    """
    if args.csv is not None and (Path(args.csv).is_dir() or not Path(args.csv).parent.is_dir()):
        raise UserError(f"--csv is {args.csv!r}; it must be a file in an existing folder.")
    if args.csv is not None:
        check_new(Path(args.csv), args.force)
    members = find_pictures(args.pictures)
    options = read_options(args)
    network = load(
        args.weights,
        args.model,
        preprocessing=options.preprocessing,
        class_names=options.class_names,
        state_dict=options.state_dict,
    )
    predictions = predict_members(network, members, args.top, args.batch_size)
    for assumption in network.assumptions:
        print_warnings(Warned(assumption))
    tally = Tally()
    with contextlib.ExitStack() as stack:
        show = stack.enter_context(_rows_of_csv(args.csv) if args.csv else _rows_of_table(members))
        advance = stack.enter_context(_progress(len(members)))
        for prediction in predictions:
            if prediction.problem:
                print_lines(
                    f"jaxft: the image {prediction.file!r} cannot be read: {prediction.problem}.", to_stderr=True
                )
            else:
                show(prediction)
            tally.add(prediction)
            advance()
    for line in accuracy_lines(tally):
        print_lines(line)
    if args.csv:
        print_lines(f"predictions: {args.csv}")
    return 1 if tally.unread else 0


def accuracy_lines(tally: Tally) -> list[str]:
    """Returns one line per split with its accuracy, and a line that counts the images that cannot be read."""
    lines = []
    for subset in tally.subsets.values():
        where = f" in {subset.subset}" if subset.subset else ""
        line = (
            f"accuracy{where}: {percent(subset.top_1 / subset.total)}% ({subset.top_1:,} of the {subset.total:,} "
            "images whose folder is named after a class)"
        )
        if subset.k > 1:
            line += f"; top-{subset.k}: {percent(subset.top_k / subset.total)}%"
        for name, value in subset.metrics().items():
            metric = METRICS[name].value
            if name != "accuracy" and (subset.is_uneven or not metric.only_uneven):
                line += "; {}: {}".format(*metric.describe(value, separator=""))
        lines.append(line)
    if tally.unread:
        lines.append(f"{tally.unread:,} of {tally.total:,} images cannot be read.")
    return lines


Show = Callable[[Prediction], None]


@contextlib.contextmanager
def _rows_of_table(members: "Sequence[Member]") -> Iterator[Show]:
    """Yields a function that prints the rows of an image. The first column fits names of up to 60 characters."""
    width = min(max(len(escaped(str(name))) for name, _ in members), 60)

    def show(prediction: Prediction) -> None:
        file = escaped(prediction.file)
        for name, probability in zip(prediction.classes, prediction.probabilities):
            print_lines(f"{file:<{width}}  {percent(probability):>5}  {name}")
            file = ""

    print_lines(f"{'image':<{width}}  {'%':>5}  class")
    yield show


@contextlib.contextmanager
def _rows_of_csv(path: str) -> Iterator[Show]:
    """Yields a function that writes the rows of an image. The CSV file appears at `path` when it is complete."""
    from jaxft.core.files import explained_os_errors, replacing

    with (
        explained_os_errors(Path(path)),
        replacing(Path(path)) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        write_row = row_writer(file)
        write_row(["file", "rank", "class", "probability"])

        def show(prediction: Prediction) -> None:
            for rank, (name, probability) in enumerate(zip(prediction.classes, prediction.probabilities), 1):
                write_row([prediction.file, rank, name, float(f"{probability:.6g}")])

        yield show


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Yields a function that counts an image and shows progress: a bar on a terminal, otherwise occasional lines."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (BarColumn(bar_width=24), MofNCompleteColumn(), "images", TimeRemainingColumn())
        # Redirection prints the table above the bar. A table that goes to a file must not be redirected.
        with Progress(
            *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
        ) as progress:
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
            left = duration((now - started) / done * (total - done))
            print_lines(f"{done:,}/{total:,} images, {left} left", to_stderr=True)

    yield advance
