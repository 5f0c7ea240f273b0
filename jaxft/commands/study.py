"""`jaxft study`: run a study, or what is missing of it, and write its results and report."""

import argparse
import contextlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.config import load_config
from jaxft.core.errors import UserError
from jaxft.core.text import duration, plural
from jaxft.recipes.study import RunOptions, estimate_study, run_config

if TYPE_CHECKING:
    from jaxft.config import ConfigFile

HELP = "run a study: fine-tune over factors and seeds, and report"
TAKES_CONFIG = COMPUTES = RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="the study's config file")
    parser.add_argument("--workdir", metavar="DIR", help="folder for the results; resumed if it has any")
    parser.add_argument("--dry-run", action="store_true", help="say what it comes to and about how long, and end")
    parser.add_argument(
        "--shard",
        default="0/1",
        metavar="i/n",
        help="every n-th piece of the work from the i-th on, from 0",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="a run that can be repeated bit for bit on the same kind of machine; slower on a GPU",
    )
    parser.add_argument("--profile", metavar="DIR", help="keep JAX's trace of the run in a folder, for xprof")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs the study of a config file and prints its table."""
    if args.deterministic:
        overrides = [*overrides, "execution.deterministic=true"]
    config, share = load_config(args.config, overrides), shard(args.shard)
    if args.dry_run:
        print_estimate(config, args.workdir)
        return 0
    if args.workdir is None:
        raise UserError("--workdir is missing; name a folder for the results, or give --dry-run.")
    from jaxft.commands.results import print_summary

    with profiling(args.profile):
        num_failed = run_config(config, args.workdir, RunOptions(debug=args.debug, shard=share)).num_failed
    print_summary(args.workdir)
    report = Path(args.workdir) / "report.html"
    print(f"\nreport: {report}\nresults: {report.with_name('results.csv')} and .parquet")
    if num_failed:
        print(
            f"{num_failed} trials failed; `jaxft results` names them, and the same command tries them again.",
            file=sys.stderr,
        )
    return 1 if num_failed else 0


def print_estimate(config: "ConfigFile", workdir: str | None) -> None:
    """Prints what a study comes to, and about how long what is missing of it takes on this machine."""
    from jaxft.recipes.rate_tables import rate_tables

    estimated = estimate_study(config, workdir)
    plan, missing = estimated.plan, estimated.missing
    print(f"{config.study.title}: {plan.size_line()}")
    for table in rate_tables(plan.trials):
        print(f"\n{table}")
    print()
    for warning in plan.warnings:
        print(f"warning: {warning}")
    if estimated.store is not None:
        print(f"missing in {workdir}: {plural(missing.trials, 'trial')} and {plural(missing.sources, 'source')}")
    parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in missing.seconds.items() if seconds)
    total = duration(sum(missing.seconds.values()))
    print(f"about {total}, trial after trial, as this machine is now: {parts or '0 s'}")
    print(
        "not in it: reading images, computing features of frozen layers, classifiers of features, comparing trials, "
        "the report. Worker processes, or trials side by side on an accelerator, take less."
    )


def shard(text: str) -> tuple[int, int]:
    """Returns (i, n) of 'i/n'."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise UserError(f"--shard is {text!r}; it is i/n with i from 0 to n - 1, such as 0/4.")
    return int(match[1]), int(match[2])


def profiling(folder: str | None) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which JAX traces what it does, to files in `folder`."""
    if folder is None:
        return contextlib.nullcontext()
    import jax

    return jax.profiler.trace(folder)
