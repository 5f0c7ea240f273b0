"""Arguments that several commands share."""

import argparse


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, the config file of a study."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.py[:ARG]",
        help="config of the study: a Python file with a function get_config(arg), which gets the text after the colon",
    )
