"""`jaxft study`: runs a study, or its missing trials, and writes the results and the report."""

import argparse
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.commands.arguments import add_config_argument
from jaxft.config import load_config
from jaxft.core.errors import UserError
from jaxft.core.printing import print_lines
from jaxft.core.text import duration, plural
from jaxft.recipes.study import RunOptions, estimate_study, run_config, trials_of_other_settings

if TYPE_CHECKING:
    from jaxft.config import ConfigFile

HELP = "run a study: fine-tune networks over factors and seeds, and write results and a report"
TAKES_CONFIG = COMPUTES = RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_config_argument(parser)
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder for the results; a study that was interrupted there resumes"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the number of trials, their learning rates and an estimate of the time, and train nothing",
    )
    parser.add_argument(
        "--shard",
        default="0/1",
        metavar="i/n",
        help="run only the i-th of n shares of the study, for i from 0 to n - 1 (default: 0/1, the whole study)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="make results bit-identical between runs on the same kind of machine; slower on a GPU",
    )
    parser.add_argument("--profile", metavar="DIR", help="save a JAX trace of the run in this folder, for xprof")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs a study and prints its results, or prints an estimate. Returns 1 if a trial fails.

    Raises:
      UserError: --workdir is missing, or the config, the data, the weights or the work directory cannot be used.
    """
    if args.deterministic:
        overrides = [*overrides, "execution.deterministic=true"]
    config, shard = load_config(args.config, overrides), parse_shard(args.shard)
    if args.dry_run:
        print_estimate(config, args.workdir)
        return 0
    if args.workdir is None:
        raise UserError("--workdir is missing; name a folder for the results, or add --dry-run.")
    from jaxft.commands.results import print_summary

    with profiling(args.profile):
        num_failed = run_config(config, args.workdir, RunOptions(debug=args.debug, shard=shard)).num_failed
    if num_failed:
        print_lines(f"{plural(num_failed, 'trial')} failed; the same command runs them again.", to_stderr=True)
    print_summary(args.workdir)
    report = Path(args.workdir) / "report.html"
    print_lines("", f"report: {report}", f"results: {report.with_name('results.csv')} and .parquet")
    return 1 if num_failed else 0


def print_estimate(config: "ConfigFile", workdir: str | None) -> None:
    """Prints the size of a study, its learning rates, and an estimate of the time for its missing trials."""
    from jaxft.recipes.rate_tables import rate_tables

    estimated = estimate_study(config, workdir)
    plan, missing = estimated.plan, estimated.missing
    print_lines(f"{config.study.title}: {plan.size_line()}")
    kept = [] if estimated.store is None else trials_of_other_settings(plan, estimated.store)
    for warning in (*plan.warnings, *kept):
        print_lines(f"warning: {warning}")
    for table in rate_tables(plan.trials):
        print_lines("", *table.split("\n"))
    print_lines("")
    if estimated.store is not None:
        print_lines(f"missing in {workdir}: {plural(missing.trials, 'trial')} and {plural(missing.sources, 'source')}")
    by_activity = ", ".join(f"{name} {duration(seconds)}" for name, seconds in missing.seconds.items() if seconds)
    total = duration(sum(missing.seconds.values()))
    print_lines(f"estimate: {total} on this machine, if trials run one after another ({by_activity or '0 s'})")
    print_lines(
        "The estimate does not include reading images, activations of frozen layers, classifiers of features, the "
        "comparison of trials, and the report.",
        "Worker processes, and trials that run together on an accelerator, take less time.",
    )


def parse_shard(text: str) -> tuple[int, int]:
    """Returns (i, n) for the text 'i/n'.

    Raises:
      UserError: the text has another form, or i is not below n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise UserError(f"--shard is {text!r}; write i/n with i from 0 to n - 1, such as 0/4.")
    return int(match[1]), int(match[2])


def profiling(folder: str | None) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which JAX writes a trace to `folder`. If None, it writes nothing."""
    if folder is None:
        return contextlib.nullcontext()
    import jax

    return jax.profiler.trace(folder)
