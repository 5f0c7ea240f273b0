"""`jaxft split`: the splits of a study as manifests, which recreate them exactly, without running it."""

import argparse
from pathlib import Path

from jaxft.config import load_config
from jaxft.core.errors import UserError
from jaxft.tracking.console import Progress

HELP = "export the splits of a study as manifests: which images are trained, selected and tested on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="the study's config file")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the manifests, a file a split")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the manifests, and prints a line about each."""
    study = load_config(args.config, overrides).study
    from jaxft.data import write_manifest
    from jaxft.study.plan import make_plan

    with Progress() as progress:
        plan = make_plan(study, progress.note)
    folder = Path(args.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {args.out!r} cannot be made: {error.strerror}.") from None
    found = {trial.drawn.manifest["digest"]: trial.drawn for trial in (*plan.sources, *plan.trials)}
    print(f"{'manifest':<22} {'seed':>10} {'classes':>7} {'train':>7} {'val':>7} {'test':>7}  data")
    for digest, drawn in found.items():
        write_manifest(folder / f"{digest}.json", drawn)
        sizes = [len(rows) for rows in (drawn.split.train, drawn.split.val, drawn.split.test)]
        numbers = [drawn.seed, len(drawn.images.class_names), *sizes]
        widths = (10, 7, 7, 7, 7)
        shown = " ".join(f"{number:>{width}}" for number, width in zip(numbers, widths))
        print(f"{digest}.json  {shown}  {' + '.join((drawn.spec.data, *drawn.spec.union))}")
    print(f"{len(found)} manifests in {folder}; a config names one as target.manifest or source.images.manifest.")
    return 0
