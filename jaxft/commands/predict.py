"""`jaxft predict`: what a network says of pictures."""

import argparse
import contextlib
import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.core.errors import UserError
from jaxft.core.metrics import METRICS
from jaxft.core.text import duration, percent
from jaxft.recipes.predict import Prediction, find_pictures, load_classifier
from jaxft.recipes.tally import Tally
from jaxft.tracking.console import LOG_SECONDS

if TYPE_CHECKING:
    from jaxft.data.readers.archives import Member

HELP = "say what is on pictures: the most probable classes, by any network"
COMPUTES = True


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
    for assumption in classifier.assumptions:
        _print_error_line(assumption)
    tally = Tally()
    with contextlib.ExitStack() as stack:
        show = stack.enter_context(_rows_of_csv(args.csv) if args.csv else _rows_of_table(members))
        advance = stack.enter_context(_progress(len(members)))
        for prediction in predictions:
            if prediction.problem:
                _print_error_line(f"jaxft: the picture {prediction.file!r} cannot be read: {prediction.problem}.")
            else:
                show(prediction)
            tally.add(prediction)
            advance()
    for line in accuracy_lines(tally):
        print(line)
    if args.csv:
        print(f"predictions: {args.csv}")
    return 1 if tally.unread else 0


def accuracy_lines(tally: Tally) -> list[str]:
    """Returns a line about accuracy for each part of the pictures, and one about those that cannot be read."""
    lines = []
    for subset in tally.subsets.values():
        where = f" in {subset.subset}" if subset.subset else ""
        line = (
            f"accuracy{where}: {percent(subset.top_1 / subset.total)}% ({subset.top_1:,} of the {subset.total:,} "
            "pictures whose folder is named after a class)"
        )
        if subset.k > 1:
            line += f"; among the first {subset.k}: {percent(subset.top_k / subset.total)}%"
        for name, value in subset.metrics().items():
            metric = METRICS[name].value
            if name != "accuracy" and (subset.is_uneven or not metric.only_uneven):
                line += "; {}: {}".format(*metric.describe(value, separator=""))
        lines.append(line)
    if tally.unread:
        lines.append(f"{tally.unread:,} of {tally.total:,} pictures cannot be read.")
    return lines


Show = Callable[[Prediction], None]


@contextlib.contextmanager
def _rows_of_table(members: "Sequence[Member]") -> Iterator[Show]:
    """Yields a function that prints a picture's rows; columns are as wide as the longest name, within reason."""
    width = min(max(len(str(name)) for name, _ in members), 60)

    def show(prediction: Prediction) -> None:
        file = prediction.file
        for name, probability in zip(prediction.classes, prediction.probabilities):
            print(f"{file:<{width}}  {percent(probability):>5}  {name}")
            file = ""

    print(f"{'picture':<{width}}  {'%':>5}  class")
    yield show


@contextlib.contextmanager
def _rows_of_csv(path: str) -> Iterator[Show]:
    """Yields a function that writes a picture's rows to the CSV file at `path`, which appears when all are there."""
    from jaxft.core.files import explained_os_errors, replacing

    with (
        explained_os_errors(Path(path)),
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
            _print_error_line(f"{done:,}/{total:,} pictures, {duration((now - started) / done * (total - done))} left")

    yield advance


def _print_error_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
