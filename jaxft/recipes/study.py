"""Runs a study, or what is missing of it, and writes its results and its report."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.config import as_config_file
from jaxft.core import events
from jaxft.core.compile_cache import keep_compiled
from jaxft.core.errors import UserError
from jaxft.core.events import Emitter
from jaxft.recipes.run_record import run_record
from jaxft.tracking.console import Progress
from jaxft.tracking.trackers import open_trackers

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.config import ConfigFile, Execution
    from jaxft.features.cache import FeatureCache
    from jaxft.store.records import Store
    from jaxft.study.estimate import Estimate
    from jaxft.study.planned import Plan


@dataclass(frozen=True)
class RunOptions:
    """How a study is run; none of it changes a result.

    Attributes:
      quiet: whether to print no progress on standard error.
      debug: whether an error in a trial is raised, instead of recorded.
      shard: (i, n): only every n-th piece of the work is done, from the i-th on, counted from 0.
      show_rates: whether progress starts with the tables of learning rates.
      features: a cache of features that other studies of the same images share; if None, the study has its own.
    """

    quiet: bool = False
    debug: bool = False
    shard: tuple[int, int] = (0, 1)
    show_rates: bool = True
    features: "FeatureCache | None" = None


@dataclass(frozen=True, eq=False)
class StudyRun:
    """A study that has run: its plan, and how many of its trials failed."""

    plan: "Plan"
    num_failed: int


def run_study(config: Any, workdir: str | os.PathLike[str], quiet: bool = False) -> "pd.DataFrame":
    """Runs a study, or what is missing of it, and returns its results, a row for each trial.

    Args:
      config: a `jaxft.config.Study`, a ConfigDict or dict of its fields, or the path of a config file.
      workdir: folder for the results. If it holds a part of the study, only the rest is run.
      quiet: whether to print no progress on standard error.

    Returns:
      The results as `jaxft.load_results(workdir)` returns them.

    Raises:
      UserError: the config, the data, the weights or the work directory cannot be used; nothing was run.
    """
    from jaxft.store.tables import load_results

    run_config(as_config_file(config), workdir, RunOptions(quiet=quiet))
    return load_results(workdir)


def run_config(config: "ConfigFile", workdir: str | os.PathLike[str], options: RunOptions | None = None) -> StudyRun:
    """Runs what is missing of a config file's study in `workdir`, and writes its results and its report.

    Raises:
      UserError: the config, the data, the weights or the work directory cannot be used; nothing was run.
    """
    from jaxft.ops import convolution
    from jaxft.recipes.rate_tables import rate_tables
    from jaxft.store.records import Store
    from jaxft.study.plan import make_plan
    from jaxft.study.run import run_plan
    from jaxft.study.services import make_services

    options = options or RunOptions()
    started = time.time()
    keep_compiled()
    execution = config.study.execution
    _check_deterministic(execution)
    with Progress(options.quiet) as progress, contextlib.closing(Emitter(progress)) as emit:
        services = make_services(execution, emit, features=options.features)
        clock = services.clock
        with clock.of("data"):
            plan = make_plan(config.study, emit)
        store = Store.create(workdir)
        with convolution.use(execution.cpu_convolution):
            _check_convolution(plan, store)
            record = run_record(config)
        store.write_plan(plan.record(config))
        store.write_run(record, started)
        emit.listeners += open_trackers(execution.trackers, store.workdir)
        emit(_planned(config, plan, record["device"]))
        for table in rate_tables(plan.trials) if options.show_rates else ():
            progress.print_line(f"{table}\n")
        for warning in (*plan.warnings, *_slow_convolutions(execution)):
            emit(events.Warned(warning))
        num_failed = run_plan(plan, store, services, options.shard, options.debug)
        with clock.of("report"):
            write_outputs(store)
        spent = {name: round(seconds, 2) for name, seconds in clock.seconds.items()}
        seconds = round(time.time() - started, 1)
        store.write_run(record | {"seconds": seconds, "spent": spent}, started)
        emit(events.StudyFinished(seconds, spent, clock.num_compiled))
    return StudyRun(plan, num_failed)


def _planned(config: "ConfigFile", plan: "Plan", device: str) -> events.StudyPlanned:
    return events.StudyPlanned(
        title=config.study.title,
        trials=len(plan.trials),
        settings=len(plan.settings),
        seeds=len(config.study.seeds),
        programs=plan.num_programs,
        device=device,
        weights=plan.weights_line(),
    )


def write_outputs(store: "Store") -> str:
    """Writes the tables of results and the page of a study from its store alone. Returns the path of the page."""
    from jaxft.report import write_report

    store.export_results()
    return str(write_report(store.workdir))


@dataclass(frozen=True, eq=False)
class StudyEstimate:
    """A study that is planned and not run: its plan, and about how long what is missing of it takes.

    `store` is the store of its work directory, or None if there is none yet.
    """

    plan: "Plan"
    missing: "Estimate"
    store: "Store | None"


def estimate_study(
    config: "ConfigFile", workdir: str | os.PathLike[str] | None = None, quiet: bool = False
) -> StudyEstimate:
    """Returns what a study comes to, and about how long what is missing of it takes on this machine.

    Raises:
      UserError: the config, the data or the weights cannot be used.
    """
    from jaxft.store.records import Store
    from jaxft.study.estimate import estimate
    from jaxft.study.plan import make_plan

    keep_compiled()
    store = Store.open(workdir) if workdir is not None and Path(workdir).exists() else None
    with Progress(quiet) as progress:
        plan = make_plan(config.study, progress)
        return StudyEstimate(plan, estimate(plan, store, progress), store)


def _check_convolution(plan: "Plan", store: "Store") -> None:
    """Checks that a store's unfinished trials would be computed by the convolutions of its finished ones."""
    from jaxft.study.convolutions import check_convolution

    if any(not store.has("trials", trial.digest) for trial in plan.trials):
        check_convolution(store)


def _check_deterministic(execution: "Execution") -> None:
    """Checks that this process was started so that its runs can be repeated, if the study asks for it."""
    import jax

    from jaxft.core.devices import DETERMINISTIC_FLAG

    if not execution.deterministic:
        return
    if jax.default_backend() == "gpu" and DETERMINISTIC_FLAG not in os.environ.get("XLA_FLAGS", ""):
        raise UserError(
            "execution.deterministic is set, but XLA was started without what it needs on a GPU; give the option "
            f"--deterministic to `jaxft study`, or set XLA_FLAGS={DETERMINISTIC_FLAG} before Python starts."
        )


def _slow_convolutions(execution: "Execution") -> Iterator[str]:
    """Yields a warning if oneDNN could compute the convolutions of this machine's CPU, but something is missing."""
    import jax

    from jaxft.ops import onednn

    if execution.cpu_convolution == "auto" and jax.default_backend() == "cpu" and onednn.is_supported_platform():
        try:
            onednn.load()
        except onednn.Unavailable as reason:
            yield f"XLA computes the convolutions, which takes up to twice as long as oneDNN would: {reason}."
