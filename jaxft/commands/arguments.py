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


def add_state_dict_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--state-dict`, the weights of a file with several networks."""
    parser.add_argument(
        "--state-dict",
        metavar="NAME",
        help="weights of a file with several networks: a state dict of a checkpoint, such as state_dict_ema, or a "
        "prefix of tensor names, such as encoder_q (default: a warning names the chosen state dict)",
    )
