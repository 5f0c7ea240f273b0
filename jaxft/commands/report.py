"""`jaxft report`: writes the report and the tables of a study again, from its work directory."""

import argparse

from jaxft.core.printing import print_lines

HELP = "write report.html, results.csv and results.parquet of a study again, from its work directory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("workdir", metavar="DIR", help="work directory of a study")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the report and the tables, and prints the path of the report."""
    from jaxft.commands.results import load_plugins_of
    from jaxft.report import write_report
    from jaxft.store.records import Store

    load_plugins_of(args.workdir)
    Store.open(args.workdir).export_results()
    print_lines(str(write_report(args.workdir)))
    return 0
