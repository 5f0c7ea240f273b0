"""Arguments that several commands share."""

import argparse
import typing
from typing import TYPE_CHECKING

from jaxft.config import PreprocessingConfig, from_dict
from jaxft.config.preprocessing import ChannelOrder, Range
from jaxft.core.errors import UserError

if TYPE_CHECKING:
    from jaxft.weights import ReadOptions


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


def add_preprocessing_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the preprocessing of weights, which `preprocessing_of` reads."""
    group = parser.add_argument_group(
        "preprocessing", "what the weights expect; a value that is not given comes from the weight file"
    )
    group.add_argument(
        "--mean", metavar="A,B,C", help="mean of each channel, in units of --range, such as 0.485,0.456,0.406"
    )
    group.add_argument(
        "--std",
        metavar="A,B,C",
        help="standard deviation of each channel, in units of --range, such as 0.229,0.224,0.225",
    )
    group.add_argument(
        "--size-px", type=int, metavar="N", help="side length of the input images in pixels, such as 224"
    )
    group.add_argument(
        "--range",
        choices=typing.get_args(Range),
        help="values of a black and a white pixel, the units of --mean and --std (write --range=-1..1 with an equals "
        "sign)",
    )
    group.add_argument(
        "--channel-order",
        choices=typing.get_args(ChannelOrder),
        help="order of the channels, also of --mean and --std",
    )


def preprocessing_of(args: argparse.Namespace) -> PreprocessingConfig:
    """Returns the values of the options of `add_preprocessing_arguments`.

    Raises:
      UserError: a value is not allowed.
    """
    if args.size_px is not None and args.size_px < 1:
        raise UserError(f"--size-px is {args.size_px}; it must be 1 or more.")
    fields = {
        "mean": _channels("--mean", args.mean),
        "std": _channels("--std", args.std),
        "size_px": args.size_px,
        "range": args.range,
        "channel_order": args.channel_order,
    }
    return from_dict(PreprocessingConfig, fields, "preprocessing")


def _channels(option: str, text: str | None) -> tuple[float, ...] | None:
    """Returns the three numbers in the text of an option; None if the option is not given."""
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise UserError(f"{option} is {text!r}; give three numbers with commas, such as 0.5,0.5,0.5.") from None
    return red, green, blue


def add_labels_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--labels`, which `class_names_of` reads."""
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="class names of the weights, in the order of the outputs: one name per line, a JSON list, or a JSON "
        "object from label to name (default: the names in the weight file)",
    )


def class_names_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the class names in the file of `--labels`; empty if the option is not given."""
    from jaxft.weights import read_class_names

    return read_class_names(args.labels) if args.labels is not None else ()


def add_read_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options for reading a weight file, which `read_options` reads."""
    add_state_dict_argument(parser)
    add_labels_argument(parser)
    add_preprocessing_arguments(parser)


def read_options(args: argparse.Namespace) -> "ReadOptions":
    """Returns the values of the options of `add_read_arguments`.

    Raises:
      UserError: a value is not allowed.
    """
    from jaxft.weights import ReadOptions

    return ReadOptions(args.state_dict, preprocessing_of(args).given(), class_names_of(args))
