"""`jaxft split`: the splits of a study as manifests, which recreate them exactly, without running it."""

import argparse
from pathlib import Path

from jaxft.config import load_config

HELP = "export the splits of a study as manifests: which images are trained, selected and tested on"
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="the study's config file")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the manifests, a file a split")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the manifests, and prints a line about each."""
    study = load_config(args.config, overrides).study
    from jaxft.recipes.split import export_splits

    splits = export_splits(study, args.out)
    print(f"{'manifest':<22} {'seed':>10} {'classes':>7} {'train':>7} {'val':>7} {'test':>7}  data")
    for digest, drawn in splits.items():
        sizes = [len(rows) for rows in (drawn.split.train, drawn.split.val, drawn.split.test)]
        numbers = [drawn.seed, len(drawn.images.class_names), *sizes]
        cells = " ".join(f"{number:>{width}}" for number, width in zip(numbers, (10, 7, 7, 7, 7), strict=True))
        print(f"{digest}.json  {cells}  {' + '.join((drawn.spec.data, *drawn.spec.union))}")
    print(
        f"{len(splits)} manifests in {Path(args.out)}; a config names one as target.manifest or source.images.manifest."
    )
    return 0
