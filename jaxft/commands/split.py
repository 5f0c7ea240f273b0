"""`jaxft split`: the splits of a study as manifests, which recreate them exactly, without running it."""

import argparse
from pathlib import Path

from jaxft.config import load_config
from jaxft.core.tables import print_table

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
    rows = []
    for digest, sampled in splits.items():
        sizes = [len(subset) for subset in (sampled.split.train, sampled.split.val, sampled.split.test)]
        numbers = map(str, (sampled.seed, len(sampled.images.class_names), *sizes))
        rows.append([f"{digest}.json", *numbers, " + ".join((sampled.spec.data, *sampled.spec.union))])
    header = ["manifest", "seed", "classes", "train", "val", "test", "data"]
    print_table(header, rows, numbers=range(1, 6), ruled=False)
    print(
        f"{len(splits)} manifests in {Path(args.out)}; a config names one as target.manifest or source.images.manifest."
    )
    return 0
