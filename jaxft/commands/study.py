"""`jaxft study`: run a study, or what is missing of it, and write its results and report."""

import argparse
import contextlib
import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.config import as_config_file, load_config, to_dict
from jaxft.core.errors import UserError
from jaxft.core.text import duration
from jaxft.tracking.console import Progress

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.config import ConfigFile, Execution
    from jaxft.features.activations import FeatureCache
    from jaxft.study.plan import Plan

HELP = "run a study: fine-tune over factors and seeds, and report"


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
    config, part = load_config(args.config, overrides), shard(args.shard)
    if args.dry_run:
        dry_run(config, args.workdir)
        return 0
    if args.workdir is None:
        raise UserError("--workdir is missing; name a folder for the results, or give --dry-run.")
    with profiling(args.profile):
        _, failed = study(config, args.workdir, debug=args.debug, shard=part)
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


def dry_run(config: "ConfigFile", workdir: str | None) -> None:
    """Prints what a study comes to, and about how long what is missing of it takes on this machine."""
    from jaxft.commands.config import group_tables
    from jaxft.store.records import Store
    from jaxft.study.plan import make_plan
    from jaxft.study.run import estimate

    keep_compiled()
    store = Store.open(workdir) if workdir is not None and Path(workdir).exists() else None
    with Progress() as progress:
        plan = make_plan(config.study, progress.note)
        found = estimate(plan, store, progress.note)
    print(
        f"{config.study.title}: {len(plan.trials)} trials = {len(plan.settings)} settings x {len(config.study.seeds)} "
        f"seeds, in {len(plan.groups)} groups; {plan.num_programs} training programs, {len(plan.sources)} sources to "
        f"train first; {plan.weights_line()}"
    )
    for table in group_tables(plan.trials):
        print(f"\n{table}")
    print()
    for warning in plan.warnings:
        print(f"warning: {warning}")
    if store is not None:
        print(f"missing in {workdir}: {found.trials} trials and {found.sources} sources")
    parts = ", ".join(f"{what} {duration(seconds)}" for what, seconds in found.seconds.items() if seconds)
    print(f"about {duration(sum(found.seconds.values()))}, trial after trial, as this machine is now: {parts or '0 s'}")
    print(
        "not in it: reading images, computing what frozen units say of them, classifiers of that, comparing trials, "
        "the report. Worker processes, or trials side by side on an accelerator, take less."
    )


def shard(text: str) -> tuple[int, int]:
    """Returns (i, n) of 'i/n'."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise UserError(f"--shard is {text!r}; it is i/n with i from 0 to n - 1, such as 0/4.")
    return int(found[1]), int(found[2])


def profiling(folder: str | None) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which JAX traces what it does, to files in `folder`."""
    if folder is None:
        return contextlib.nullcontext()
    import jax

    return jax.profiler.trace(folder)


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
    shard: tuple[int, int] = (0, 1),
    show_rates: bool = True,
) -> tuple["Plan", int]:
    """Runs what is missing, writes results and report, and returns the plan and how many trials failed."""
    from jaxft.commands.config import group_tables
    from jaxft.ops import convolution
    from jaxft.report import write_report
    from jaxft.store.records import Store
    from jaxft.study.plan import make_plan
    from jaxft.study.run import check_convolution, run_plan

    started = time.time()
    keep_compiled()
    if config.study.execution.deterministic:
        _check_deterministic()
    with Progress(quiet) as progress:
        with progress.clock.of("data"):
            plan = make_plan(config.study, progress.note)
        store = Store.create(workdir)
        with convolution.use(config.study.execution.cpu_convolution):
            if any(not store.has("trials", trial.digest) for trial in plan.trials):
                check_convolution(store)
            record = run_record(config)
        store.write_plan(plan.record(config))
        store.write_run(record, started)
        progress.say(
            f"{config.study.title}: {len(plan.trials)} trials ({len(plan.settings)} settings, "
            f"{len(config.study.seeds)} seeds), {plan.num_programs} training programs, on {record['device']}; "
            f"{plan.weights_line()}"
        )
        for table in group_tables(plan.trials) if show_rates else ():
            progress.say(f"{table}\n")
        for warning in (*plan.warnings, *_slow_convolutions(config.study.execution)):
            progress.say(f"warning: {warning}")
        failed = run_plan(plan, store, progress, debug, features, shard)
        with progress.clock.of("report"):
            store.export_results()
            write_report(store.workdir)
        spent = {name: round(seconds, 2) for name, seconds in progress.clock.seconds.items()}
        seconds = time.time() - started
        store.write_run(record | {"seconds": round(seconds, 1), "spent": spent}, started)
        progress.say(f"done in {duration(seconds)}: {progress.clock}")
    return plan, failed


def _check_deterministic() -> None:
    """Checks that this process was started so that its runs can be repeated."""
    import jax

    from jaxft.core.devices import DETERMINISTIC_FLAG

    if jax.default_backend() == "gpu" and DETERMINISTIC_FLAG not in os.environ.get("XLA_FLAGS", ""):
        raise UserError(
            "execution.deterministic is set, but XLA was started without what it needs on a GPU; give the option "
            f"--deterministic to `jaxft study`, or set XLA_FLAGS={DETERMINISTIC_FLAG} before Python starts."
        )


def _slow_convolutions(execution: "Execution") -> list[str]:
    """Returns a warning where oneDNN could compute the convolutions of this machine's CPU, and something is missing."""
    import jax

    from jaxft.ops import onednn

    if execution.cpu_convolution == "auto" and jax.default_backend() == "cpu" and onednn.is_supported_platform():
        try:
            onednn.load()
        except onednn.Unavailable as reason:
            return [f"XLA computes the convolutions, which takes up to twice as long as oneDNN would: {reason}."]
    return []


def keep_compiled() -> None:
    """Makes JAX keep what it compiles in the user's cache folder, unless it was told where to.

    Programs of another processor are of no use, and may end the process: each kind has a folder of its own.
    """
    import jax

    from jaxft.core.cache import cache_dir
    from jaxft.core.devices import device_name

    if jax.config.values["jax_compilation_cache_dir"] is None:
        name = hashlib.sha256(device_name().encode()).hexdigest()[:16]
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled" / name))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def run_record(config: "ConfigFile") -> dict[str, Any]:
    """Returns what a run was: when, by which command, with which versions, on what, from which commit."""
    import jax

    from jaxft.ops import convolution

    device = jax.devices()[0]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command_line(),
        "config_path": config.path,
        "overrides": list(config.overrides),
        "config": to_dict(config.study),
        "versions": versions(),
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores",
        "convolution": convolution.described(*convolution.implementation()),
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
    """Returns the commit that `folder` is at, and whether it has changes; nothing where it is in no repository.

    Git runs nothing that the repository names: no hook, no file system monitor, no content filter, nothing of a
    submodule, no remote. A file whose filter would undo its changes counts as changed.
    """
    environment = os.environ | {"GIT_ALLOW_PROTOCOL": "", "JAXFT_NOTHING": ""}

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, check=True)
        return os.fsdecode(done.stdout)

    try:
        commit = git("rev-parse", "HEAD").strip()
        settings = git("config", "--list", "--name-only", "--show-scope", "-z").split("\0")
        filters = {
            name
            for scope, name in zip(settings[::2], settings[1::2])
            if scope in ("local", "worktree") and name.startswith("filter.")
        }
        # Unlike `-c`, `--config-env` sets names with an equals sign too.
        without = [f"--config-env={name}=JAXFT_NOTHING" for name in filters]
        without += ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "--no-optional-locks"]
        return {"commit": commit, "dirty": bool(git(*without, "status", "--porcelain", "--ignore-submodules=dirty"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
