"""Runs a study, or its missing trials, and writes the results and the report."""

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
from jaxft.core.text import plural
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
    """Options of a run. They do not affect results.

    Attributes:
      quiet: whether to print no progress on standard error.
      debug: whether to raise an error of a trial instead of recording it.
      shard: (i, n): run only the i-th of n shares of the study, for i from 0 to n - 1.
      show_rates: whether to print the tables of learning rates first.
      features: a feature cache that is shared with other studies of the same images. If None, the study has a separate
        cache.
    """

    quiet: bool = False
    debug: bool = False
    shard: tuple[int, int] = (0, 1)
    show_rates: bool = True
    features: "FeatureCache | None" = None


@dataclass(frozen=True, eq=False)
class StudyRun:
    """The result of a run.

    Attributes:
      plan: the plan of the study.
      num_failed: the number of trials that failed.
    """

    plan: "Plan"
    num_failed: int


def run_study(config: Any, workdir: str | os.PathLike[str], quiet: bool = False) -> "pd.DataFrame":
    """Runs a study, or its missing trials, and returns the results as a DataFrame with one row per trial.

    Args:
      config: a `jaxft.config.Study`, a ConfigDict or dict of its fields, or the path of a config file.
      workdir: the folder for the results. Finished trials in it do not run again.
      quiet: whether to print no progress on standard error.

    Returns:
      The results. `jaxft.load_results(workdir)` returns them again, and describes the columns.

    Raises:
      UserError: the config, the data, the weights or the work directory cannot be used. No trial has run.

    Example:
      >>> results = jaxft.run_study("configs/quickstart.py", "runs/quickstart")
      >>> results.groupby("training.layers.backbone_learning_rate")["test_accuracy"].mean()
    """
    from jaxft.store.tables import load_results

    run_config(as_config_file(config), workdir, RunOptions(quiet=quiet))
    return load_results(workdir)


def run_config(config: "ConfigFile", workdir: str | os.PathLike[str], options: RunOptions | None = None) -> StudyRun:
    """Runs the missing trials of a study in `workdir`, and writes the results and the report.

    Args:
      config: the config of the study.
      workdir: the folder for the results.
      options: options of the run. If None, the defaults.

    Raises:
      UserError: the config, the data, the weights or the work directory cannot be used. No trial has run.
    """
    from jaxft.ops import convolution
    from jaxft.recipes.rate_tables import first_lines, rate_tables
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
        with clock.measure("data"):
            plan = make_plan(config.study, emit)
        store = Store.create(workdir, emit)
        emit.listeners += open_trackers(execution.trackers, store.workdir)
        store.set_aside_damaged(emit)
        with convolution.use(execution.cpu_convolution):
            _check_convolution(plan, store)
            record = run_record(config)
        store.write_plan(plan.record(config))
        store.write_run(record, started)
        emit(_planned(config, plan, record["device"]))
        for warning in (*plan.warnings, *trials_of_other_settings(plan, store), *_slow_convolutions(execution)):
            emit(events.Warned(warning))
        if options.show_rates:
            for line in first_lines(rate_tables(plan.trials)):
                progress.print_line(line)
        num_failed = run_plan(plan, store, services, options.shard, options.debug)
        with clock.measure("report"):
            write_outputs(store)
        spent = {name: round(seconds, 2) for name, seconds in clock.seconds.items()}
        seconds = round(time.time() - started, 1)
        store.write_run(record | {"seconds": seconds, "spent": spent}, started)
        emit(events.StudyFinished(seconds, spent, clock.num_compiled))
    return StudyRun(plan, num_failed)


def _planned(config: "ConfigFile", plan: "Plan", device: str) -> events.StudyPlanned:
    """Returns the event that describes a plan."""
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
    """Writes the tables of results and the report of a study, from its store. Returns the path of the report."""
    from jaxft.report import write_report
    from jaxft.store.tables import export_analyses

    store.export_results()
    export_analyses(store)
    return str(write_report(store.workdir))


@dataclass(frozen=True, eq=False)
class StudyEstimate:
    """An estimate of the time that a study takes.

    Attributes:
      plan: the plan of the study.
      missing: the number of missing trials and sources, and an estimate of their time.
      store: the store of the work directory. If None, the work directory does not exist.
    """

    plan: "Plan"
    missing: "Estimate"
    store: "Store | None"


def estimate_study(
    config: "ConfigFile", workdir: str | os.PathLike[str] | None = None, quiet: bool = False
) -> StudyEstimate:
    """Returns the plan of a study, and an estimate of the time for its missing trials on this machine.

    Args:
      config: the config of the study.
      workdir: the work directory. If None, or if it does not exist, all trials are missing.
      quiet: whether to print no progress on standard error.

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


def trials_of_other_settings(plan: "Plan", store: "Store") -> list[str]:
    """Returns a sentence about the finished trials in a store that are not in the plan, or []."""
    others = store.digests("trials") - {trial.digest for trial in plan.trials}
    if not others:
        return []
    return [
        f"{str(store.workdir)!r} keeps {plural(len(others), 'finished trial')} of other settings or seeds than this "
        "config has; the tables and the report leave them out."
    ]


def _check_convolution(plan: "Plan", store: "Store") -> None:
    """Checks that missing trials would use the same convolutions as the finished trials in the store."""
    from jaxft.study.convolutions import check_convolution

    if any(not store.has("trials", trial.digest) for trial in plan.trials):
        check_convolution(store)


def _check_deterministic(execution: "Execution") -> None:
    """Checks that this process was started with the flags for `execution.deterministic`, if the study sets it."""
    import jax

    from jaxft.core.devices import DETERMINISTIC_FLAG

    if not execution.deterministic:
        return
    if jax.default_backend() == "gpu" and DETERMINISTIC_FLAG not in os.environ.get("XLA_FLAGS", ""):
        raise UserError(
            "execution.deterministic is true, but XLA on a GPU needs a flag at its start; run `jaxft study "
            f"--deterministic`, or set XLA_FLAGS={DETERMINISTIC_FLAG} before Python starts."
        )


def _slow_convolutions(execution: "Execution") -> Iterator[str]:
    """Yields a warning if oneDNN supports this CPU, but cannot be loaded."""
    import jax

    from jaxft.ops import onednn

    if execution.cpu_convolution == "auto" and jax.default_backend() == "cpu" and onednn.is_supported_platform():
        try:
            onednn.load()
        except onednn.Unavailable as reason:
            yield f"XLA computes the convolutions, up to twice as slowly as oneDNN, because {reason}."
