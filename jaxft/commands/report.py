"""`jaxft report`: write a study's page and tables again, from its work directory alone."""

import argparse

HELP = "write a study's report.html, results.csv and results.parquet again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("workdir", metavar="DIR", help="work directory of a study")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the page and the tables."""
    from jaxft.commands.results import load_plugins_of
    from jaxft.report import write_report
    from jaxft.store.records import Store

    load_plugins_of(args.workdir)
    Store.open(args.workdir).export_results()
    print(write_report(args.workdir))
    return 0
