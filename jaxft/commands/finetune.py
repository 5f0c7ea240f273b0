"""`jaxft finetune`: fine-tune a pretrained network on one's own pictures, and keep the result."""

import argparse
from pathlib import Path

from jaxft.recipes.finetune.folder import RANGE_FIGURE
from jaxft.recipes.finetune.options import DEPTHS, FinetuneOptions

HELP = "fine-tune a pretrained network on a folder of pictures, and keep the result"
COMPUTES = RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="pretrained weights, or package:NAME")
    parser.add_argument("--model", metavar="NAME", help="their network; by default what the file says")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="class folders (or a zip of them, or an .npz)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the result; goes on if it has a part")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs that the accuracy is over (3)")
    parser.add_argument(
        "--train",
        choices=DEPTHS,
        default="auto",
        help="the most that is tried: the head, the last stage too, or all; auto: the last stage on a CPU, else all",
    )
    parser.add_argument("--size-px", type=int, metavar="N", help="side of the images; by default the weights' own")
    parser.add_argument(
        "--find-lr",
        action="store_true",
        help="only test which learning rate suits all that is trained, and draw it as OUT/learning_rate.png",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Fine-tunes and prints a summary of the result, or runs a learning-rate range test."""
    options = FinetuneOptions(
        weights=args.weights,
        data=args.data,
        out=args.out,
        model=args.model,
        seeds=args.seeds,
        train=args.train,
        size_px=args.size_px,
    )
    if args.find_lr:
        from jaxft.recipes.range_test import find_learning_rate

        range_test = find_learning_rate(options)
        print(
            f"suggested learning rate: {range_test.suggested:.2g}, a tenth of that with the least loss; the loss falls "
            f"fastest at {range_test.steepest:.2g}\npicture: {Path(args.out) / RANGE_FIGURE}"
        )
        return 0
    from jaxft.recipes.finetune.run import run_finetune
    from jaxft.report.finetune import summary_lines

    record = run_finetune(options, debug=args.debug)
    print("\n".join(summary_lines(record, args.out)))
    return 0
