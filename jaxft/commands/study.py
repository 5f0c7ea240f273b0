"""`jaxft study`: run a study, or what is missing of it, and write its results and report."""

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.commands.progress import Progress, duration
from jaxft.config import as_config_file, load_config, to_dict

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.config import ConfigFile
    from jaxft.features import FeatureCache
    from jaxft.plan import Plan

HELP = "run a study: fine-tune over factors and seeds, and report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="the study's config file")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder for the results; resumed if it has any")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs the study of a config file and prints its table."""
    _, failed = study(load_config(args.config, overrides), args.workdir, debug=args.debug)
    from jaxft.commands.results import print_summary

    print_summary(args.workdir)
    report = Path(args.workdir) / "report.html"
    print(f"\nreport: {report}\nresults: {report.with_name('results.csv')} and .parquet")
    if failed:
        print(
            f"{failed} trials failed; `jaxft results` names them, and the same command tries them again.",
            file=sys.stderr,
        )
    return 1 if failed else 0


def run_study(config: Any, workdir: str | os.PathLike[str], quiet: bool = False) -> "pd.DataFrame":
    """Runs a study, or what is missing of it, and returns its results, a row a trial.

    Args:
      config: a `jaxft.config.Study`, a ConfigDict or dict of its fields, or the path of a config file.
      workdir: folder for the results. Where it holds a part of the study already, only the rest is run.
      quiet: whether to leave out the progress on standard error.

    Returns:
      What `jaxft.load_results(workdir)` returns.

    Raises:
      UserError: the config, the data, the weights or the work directory cannot be used; nothing was run.
    """
    study(as_config_file(config), workdir, quiet=quiet)
    from jaxft.commands.results import load_results

    return load_results(workdir)


def study(
    config: "ConfigFile",
    workdir: str | os.PathLike[str],
    quiet: bool = False,
    debug: bool = False,
    features: "FeatureCache | None" = None,
) -> tuple["Plan", int]:
    """Runs what is missing, writes results and report, and returns the plan and how many trials failed."""
    from jaxft.execute import choose_executor
    from jaxft.plan import make_plan
    from jaxft.report import write_report
    from jaxft.store import Store
    from jaxft.study import run_plan

    started = time.time()
    plan = make_plan(config.study)
    store = Store.create(workdir)
    record = run_record(config)
    store.write_plan(plan.record(config))
    store.write_run(record, started)
    executor, width = choose_executor(config.study.execution)
    with Progress(quiet) as progress:
        progress.say(
            f"{config.study.title}: {len(plan.trials)} trials ({len(plan.settings)} settings, "
            f"{len(config.study.seeds)} seeds), {plan.num_programs} training programs, "
            f"{executor.replace('_', ' ')}{f' at width {width}' if width > 1 else ''} on {record['device']}; "
            f"{plan.weights_line()}"
        )
        for warning in plan.warnings:
            progress.say(f"warning: {warning}")
        failed = run_plan(plan, store, progress, debug, features)
        store.write_run(record | {"seconds": round(time.time() - started, 1)}, started)
        store.export_results()
        write_report(store.workdir)
        progress.say(f"done in {duration(time.time() - started)}")
    return plan, failed


def run_record(config: "ConfigFile") -> dict[str, Any]:
    """Returns what a run was: when, by which command, with which versions, on what, from which commit."""
    import jax

    device = jax.devices()[0]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command_line(),
        "config_path": config.path,
        "overrides": list(config.overrides),
        "config": to_dict(config.study),
        "versions": versions(),
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores",
        "git": git_state(Path(config.path).parent if config.path else Path()),
    }


def command_line() -> list[str]:
    """Returns the words that began this process, as one would type them again."""
    program = Path(sys.argv[0]).name
    return ["jaxft" if program in ("cli.py", "__main__.py") else program, *sys.argv[1:]]


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide a result."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("jaxft", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def git_state(folder: Path) -> dict[str, Any]:
    """Returns the commit that `folder` is at, and whether it has changes; nothing where it is in no repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
