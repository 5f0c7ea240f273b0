"""`jaxft soup`: averages the networks of a study, and interpolates between each network and its initial weights."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxft.core.printing import print_lines
from jaxft.recipes.interpolation import HEADS
from jaxft.recipes.soup import Soups, make_soups
from jaxft.report.soup_lines import draw_lines, mean_interval_of

if TYPE_CHECKING:
    import pandas as pd

HELP = "average the networks of a finished study (soups), and interpolate each with its initial weights (WiSE-FT)"
COMPUTES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("workdir", metavar="DIR", help="work directory of a finished study with stored weights")
    parser.add_argument(
        "--over",
        nargs="*",
        default=[],
        metavar="FACTOR",
        help="average networks over the levels of these factors and over seeds (default: over seeds only)",
    )
    parser.add_argument(
        "--alphas",
        type=int,
        default=11,
        metavar="N",
        help="number of interpolation points between the initial and the fine-tuned weights, both included (default: "
        "11)",
    )
    parser.add_argument(
        "--head",
        choices=HEADS,
        default="start",
        help="'start' (default) interpolates the head too; 'final' uses the fine-tuned head at all points and "
        "interpolates only the backbone",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Averages and interpolates the networks, prints the accuracy, and plots it along the lines."""
    soups = make_soups(args.workdir, args.over, args.alphas, args.head)
    print_soups(args.workdir, soups)
    return 0


def print_soups(workdir: str | os.PathLike[str], soups: Soups) -> None:
    """Prints a table of soups and a table of lines, and plots the lines in `soup.png` in the work directory."""
    from jaxft.report.labels import level_texts
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    plan = store.plan()
    for reason in soups.skipped:
        print_lines(reason)
    if len(soups.soups):
        print_soup_table(plan["factors"], soups.soups)
    levels = level_texts(plan)
    print_line_table(plan, levels, soups.lines)
    print_lines("", f"figure: {draw_lines(store, plan, levels, soups.lines)}")


def print_soup_table(factors: Sequence[str], soups: "pd.DataFrame") -> None:
    """Prints one row per set of networks: its best network, its uniform soup and its greedy soup."""
    from jaxft.core.tables import print_table
    from jaxft.core.text import percent

    soups = soups.astype({name: "float64" for name in soups.columns if name.startswith(("val", "test"))})
    names = [name for name in factors if name in soups]
    columns = [(kind, subset) for kind in ("single", "uniform", "greedy") for subset in ("val", "test")]
    rows = []
    for _, row in soups.iterrows():
        accuracy = [percent(row[f"{subset}_{kind}"]) for kind, subset in columns]
        rows.append([*(str(row[name]) for name in names), f"{row['in_greedy']} of {row['networks']}", *accuracy])
    header = [*names, "networks", *(f"{kind} {subset} %" for kind, subset in columns)]
    print_table(header, rows, range(len(names), len(header)))
    print_lines(
        "single: network with the highest validation accuracy. uniform: average of all networks. greedy: average of "
        "the networks that the greedy soup selects on validation. networks: size of the greedy soup."
    )


def print_line_table(plan: Mapping[str, Any], levels: Sequence[Sequence[str]], lines: "pd.DataFrame") -> None:
    """Prints one row per setting: the selected points of its lines, and their accuracy."""
    from jaxft.core.tables import print_table
    from jaxft.core.text import percent, percent_interval
    from jaxft.report.methods import interval_text

    lines = lines.astype({"val_accuracy": "float64", "test_accuracy": "float64"})
    factors, rows, counts = plan["factors"], [], []
    for setting in sorted(lines["setting"].unique().tolist()):
        rows_of_setting = lines[lines["setting"] == setting]
        chosen = rows_of_setting[rows_of_setting["chosen"]]
        end = rows_of_setting[rows_of_setting["alpha"] == 1]
        alphas = ", ".join(f"{alpha:.3g} ({count})" for alpha, count in chosen["alpha"].value_counts().items())
        tested = [mean_interval_of(points["test_accuracy"]) for points in (chosen, end)]
        counts += [interval.num_values for interval in tested]
        cells = map(percent_interval, tested)
        rows.append([*levels[setting], alphas or "–", percent(chosen["val_accuracy"].mean()), *cells])
    header = [*factors, "alpha (seeds)", "val %", "test %", "test %, alpha 1"]
    print_table(header, rows, range(len(factors) + 1, len(header)))
    print_lines("alpha: 0 is the initial network, 1 the fine-tuned network. Each seed selects alpha on validation.")
    print_lines(f"test: mean and {interval_text(plan, counts)}.")
