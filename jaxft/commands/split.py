"""`jaxft split`: writes the splits of a study as manifests, without running the study."""

import argparse
from pathlib import Path

from jaxft.commands.arguments import add_config_argument
from jaxft.config import load_config
from jaxft.core.printing import print_lines
from jaxft.core.tables import print_table
from jaxft.core.text import plural

HELP = "write the splits of a study as manifests: files that list the training, validation and test images"
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_config_argument(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the manifests, one file per split")
    parser.add_argument("--force", action="store_true", help="replace manifests in --out that were edited")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the manifests, and prints one line about each."""
    study = load_config(args.config, overrides).study
    from jaxft.recipes.split import export_splits

    splits = export_splits(study, args.out, force=args.force)
    rows = []
    for digest, sampled in splits.items():
        sizes = [len(subset) for subset in (sampled.split.train, sampled.split.val, sampled.split.test)]
        counts = map(str, (sampled.seed, len(sampled.images.class_names), *sizes))
        rows.append([f"{digest}.json", *counts, " + ".join((sampled.spec.data, *sampled.spec.union))])
    header = ["manifest", "seed", "classes", "train", "val", "test", "data"]
    print_table(header, rows, numbers=range(1, 6), ruled=False)
    print_lines(
        f"{plural(len(splits), 'manifest')} in {Path(args.out)}. To reuse a split, name its manifest in a config, as "
        "target.manifest or source.images.manifest."
    )
    return 0
