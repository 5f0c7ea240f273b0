"""`jaxft finetune`: fine-tunes a pretrained network on a folder of images."""

import argparse
import dataclasses
from pathlib import Path

from jaxft.commands.arguments import add_preprocessing_arguments, add_state_dict_argument, preprocessing_of
from jaxft.core.printing import print_lines
from jaxft.recipes.finetune.folder import RANGE_FIGURE
from jaxft.recipes.finetune.options import DEPTHS, FinetuneOptions

HELP = "fine-tune a pretrained network on a folder of images; write weights, a model card and a report"
COMPUTES = RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="file of pretrained weights, or package:NAME for weights in an installed Python package",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="architecture of the weights, as in `jaxft models` (default: from the file)"
    )
    add_state_dict_argument(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="FOLDER",
        help="labeled images: a folder or archive with one subfolder per class, or an .npz file",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the result; a run that was interrupted there resumes"
    )
    parser.add_argument(
        "--force", action="store_true", help="delete the result of another command, if --out contains one"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="how many times the selected candidate is trained on all training images, with different seeds (default: "
        "3)",
    )
    parser.add_argument(
        "--train",
        choices=DEPTHS,
        default="auto",
        help="largest part of the network that candidates train: 'head', 'top' (the head and the last stage) or 'all'; "
        "'auto' (default) is 'top' on a CPU and 'all' on a GPU or TPU",
    )
    parser.add_argument(
        "--find-lr",
        action="store_true",
        help="only run a learning-rate range test of the candidate that trains the most layers, and plot it in "
        f"DIR/{RANGE_FIGURE}",
    )
    add_preprocessing_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Fine-tunes and prints a summary, or runs a learning-rate range test and prints its result."""
    options = FinetuneOptions(
        weights=args.weights,
        data=args.data,
        out=args.out,
        model=args.model,
        seeds=args.seeds,
        train=args.train,
        size_px=args.size_px,
        state_dict=args.state_dict,
        preprocessing=dataclasses.replace(preprocessing_of(args), size_px=None),  # size_px: of the images to train on
    )
    if args.find_lr:
        from jaxft.recipes.range_test import find_learning_rate

        range_test = find_learning_rate(options, args.force)
        print_lines(
            f"suggested learning rate: {range_test.suggested:.2g}, a tenth of the rate with the lowest loss",
            f"the loss falls fastest at {range_test.steepest:.2g}",
            f"figure: {Path(args.out) / RANGE_FIGURE}",
        )
        return 0
    from jaxft.recipes.finetune.run import run_finetune
    from jaxft.report.finetune import summary_lines

    record = run_finetune(options, args.force, debug=args.debug)
    print_lines(*summary_lines(record, args.out))
    return 0
