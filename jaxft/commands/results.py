"""`jaxft results`: prints the results of a study from its work directory."""

import argparse
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from jaxft.commands.results_statistics import print_anova, print_power
from jaxft.core.csv_files import write_table
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.plugins import load_plugins
from jaxft.core.printing import print_lines
from jaxft.core.tables import print_table
from jaxft.core.text import MISSING, p_value, percent, percent_interval, plural, points, some_of
from jaxft.store.columns import KEYS, column_help, summary_columns, tested_columns, trial_columns

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.store.records import Store

HELP = "print the results of a study: means and confidence intervals of each setting, or all trials"
MAX_NAMED = 3  # failed trials in a line
# Factors that change the effective learning rate.
EFFECTIVE_RATE_FACTORS = {
    "training.optimizer.momentum",
    "training.optimizer.name",
    "training.optimizer.effective_learning_rate",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("workdir", metavar="DIR", help="work directory of a study")
    parser.add_argument("--trials", action="store_true", help="print one row per trial instead of one row per setting")
    parser.add_argument(
        "--layers", action="store_true", help="print the parameter change of each layer in each setting"
    )
    parser.add_argument(
        "--measure",
        default="relative_l2",
        metavar="NAME",
        help="measure of parameter change that --layers prints (default: relative_l2)",
    )
    parser.add_argument("--columns", action="store_true", help="explain each column of the results table")
    parser.add_argument(
        "--selected",
        action="store_true",
        help="print the study with the levels that each seed selects on validation, for the factors in "
        "config.select_over",
    )
    parser.add_argument(
        "--anova",
        action="store_true",
        help="print an analysis of variance: the effect of each factor on the test accuracy, with F test and effect "
        "sizes (extra 'statistics'); with --selected, over the selected trials",
    )
    parser.add_argument(
        "--power",
        action="store_true",
        help="print the smallest difference that the seeds can show between neighboring settings, and the number of "
        "seeds for other differences (extra 'statistics'); with --selected, between arms",
    )
    parser.add_argument(
        "--difference",
        type=float,
        action="append",
        default=[],
        metavar="POINTS",
        help="difference in percentage points for which --power prints the number of seeds; can be repeated (default: "
        "0.5, 1 and 2)",
    )
    parser.add_argument(
        "--metric",
        default="test_accuracy",
        metavar="NAME",
        help="column of the results that --anova and --power analyze (default: test_accuracy)",
    )
    parser.add_argument(
        "--log-odds", action="store_true", help="analyze the accuracy as log-odds, with --anova; for accuracies near 1"
    )
    parser.add_argument(
        "--csv",
        action="store_true",
        help="print all trials as CSV; with --selected, only the selected trials; with --anova or --power, that table",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the table that the options select.

    Raises:
      UserError: two options contradict each other.
    """
    if args.anova and args.power:
        raise UserError("--anova and --power print different tables; choose one of them.")
    if args.difference and not args.power:
        raise UserError("--difference is an option of --power.")
    if args.log_odds and not args.anova:
        raise UserError("--log-odds is an option of --anova.")
    load_plugins_of(args.workdir)
    if args.anova:
        print_anova(args.workdir, args.metric, args.log_odds, args.selected, args.csv)
    elif args.power:
        print_power(args.workdir, args.metric, args.difference, args.selected, args.csv)
    elif args.csv:
        from jaxft.report.selection import load_selected
        from jaxft.store.tables import load_results

        load = load_selected if args.selected else load_results
        write_table(load(args.workdir), sys.stdout)
    elif args.selected:
        print_selected(args.workdir)
    elif args.trials:
        print_trials(args.workdir)
    elif args.layers:
        print_layers(args.workdir, args.measure)
    elif args.columns:
        print_columns(args.workdir)
    else:
        print_summary(args.workdir)
    return 0


def load_plugins_of(workdir: str | os.PathLike[str]) -> None:
    """Loads the plug-ins of a study, because its tables use their columns, measures and report sections.

    A missing plug-in causes a warning only: the tables then show its columns and measures without a title.
    """
    from jaxft.store.records import Store

    plugins = Store.open(workdir).plan()["config"].get("plugins") or ()
    try:
        load_plugins(plugins)
    except UserError as error:
        print_lines(f"warning: {error}", to_stderr=True)


def print_summary(workdir: str | os.PathLike[str]) -> None:
    """Prints one row per setting: accuracy with its 95% interval over seeds, and the change of the backbone."""
    from jaxft.report.labels import level_texts
    from jaxft.report.methods import interval_text
    from jaxft.report.selection import select_over
    from jaxft.report.settings import chosen_setting, summarize_settings
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    plan, results = store.plan(), store.results()
    settings, levels = summarize_settings(plan, results), level_texts(plan)
    columns = summary_columns(plan, results.columns)
    best = chosen_setting(settings)
    rates = [f"{rate:.3g}" for rate in plan.get("effective_rates", [])]
    shows_rates = len(set(rates)) > 1 and bool({*plan["factors"]} & EFFECTIVE_RATE_FACTORS)
    rows = []
    for setting in settings:
        done = f"{setting.done}/{setting.planned}" + (f", {setting.diverged} diverged" if setting.diverged else "")
        cells = [column.summary(setting.means[name]) for name, column in columns.items() if column.summary]
        cells[-1] += " *" if setting is best else ""
        rate = [rates[setting.number]] if shows_rates else []
        rows.append([*levels[setting.number], *rate, done, *cells])
    print_missing(store, results)
    headings = [*plan["factors"], *(["effective rate"] if shows_rates else [])]
    header = [*headings, "trials", *(column.summary_heading() for column in columns.values())]
    print_table(header, rows, range(len(plan["factors"]), len(header)))
    if best is not None:
        print_lines("* highest validation accuracy.")
    print_lines(f"test: mean and {interval_text(plan, (setting.test.num_values for setting in settings))}.")
    for name, column in columns.items():
        if name not in ("val_accuracy", "test_accuracy"):
            print_lines(f"{column.summary_title or column.title}: {column_help(name)}.")
    if shows_rates:
        print_lines(
            "effective rate: learning rate of the head at the peak of the schedule; with sgd, divided by one minus the "
            "momentum."
        )
    if select_over(plan):
        print_selected(workdir)


def print_missing(store: "Store", results: "pd.DataFrame") -> None:
    """Prints the number of trials that have not run, and the errors of failed trials, before a long table."""
    num_planned = len(store.plan()["trials"])
    if num_planned > len(results):
        print_lines(f"{num_planned - len(results)} of {num_planned} trials have not run yet.")
    for line in failure_lines(store, results.loc[results["status"] == "failed", "trial"]):
        print_lines(line)


def failure_lines(store: "Store", trials: Iterable[str]) -> list[str]:
    """Returns one line per distinct error of failed trials, with the digests of the first trials that raised it."""
    trials_by_error: dict[str, list[str]] = {}
    for trial in trials:
        failure = store.read("failures", trial) or {}
        trials_by_error.setdefault(str(failure.get("error")).splitlines()[0], []).append(trial)
    return [
        f"{plural(len(digests), 'trial')} failed ({some_of(digests, MAX_NAMED)}): {error}"
        for error, digests in trials_by_error.items()
    ]


def print_selected(workdir: str | os.PathLike[str]) -> None:
    """Prints one row per arm, in which each seed uses the level it selected on validation; then paired differences."""
    from jaxft.report.methods import interval_text, paired_test_text
    from jaxft.report.selection import contrasts_of, open_arms, select_over, selected_text
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    arms, plan = open_arms(store), store.plan()
    over, columns = select_over(plan), tested_columns(plan, arms[0].means)
    rows = []
    for arm in arms:
        seeds = f"{len(arm.selected)}/{arm.planned}" + (f", {arm.diverged} diverged" if arm.diverged else "")
        accuracy = percent(arm.val.mean), percent_interval(arm.test)
        means = [column.summary(arm.means[name]) for name, column in columns.items() if column.summary]
        rows.append([arm.label, selected_text(arm, over, arms), seeds, *accuracy, *means])
    headings = [column.summary_heading() for column in columns.values()]
    header = ["arm", "selected (seeds)", "seeds", "validation %", "test %", *headings]
    print_table(header, rows, range(2, len(header)))
    print_lines(
        f"In each arm, each seed selects {', '.join(over)} on validation. test: mean and "
        f"{interval_text(plan, (arm.test.num_values for arm in arms))}."
    )
    contrasts = contrasts_of(arms)
    if not contrasts:
        return
    rows = [
        [
            f"{contrast.first.label} − {contrast.second.label}",
            points(contrast.difference.interval),
            p_value(contrast.p_adjusted),
            f"{contrast.difference.interval.num_values}",
        ]
        for contrast in contrasts
    ]
    print_table(["difference", "test, points", "p (Holm)", "pairs"], rows, range(1, 4))
    counts = [contrast.difference.interval.num_values for contrast in contrasts]
    print_lines(
        f"difference: mean and {interval_text(plan, counts)}, paired by seed. p: {paired_test_text(len(contrasts))}."
    )


def print_trials(workdir: str | os.PathLike[str]) -> None:
    """Prints one row per trial, with the columns of the results that have a title."""
    from jaxft.report.labels import level_texts
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    plan, results = store.plan(), store.results()
    levels, columns = level_texts(plan), trial_columns(plan, results.columns)
    rows = [
        [
            row["trial"],
            *levels[row["setting"]],
            f"{row['seed']}",
            row["status"],
            *(column.format(row[name]) for name, column in columns.items()),
        ]
        for row in results.to_dict("records")
    ]
    header = ["trial", *plan["factors"], "seed", "status", *(column.heading() for column in columns.values())]
    seed = header.index("seed")
    print_missing(store, results)
    numbers = [seed, *(seed + 2 + i for i, column in enumerate(columns.values()) if column.is_number)]
    print_table(header, rows, numbers)


def print_columns(workdir: str | os.PathLike[str]) -> None:
    """Prints the name and the meaning of each column of the results."""
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    known = KEYS | dict.fromkeys(store.plan()["factors"], "factor of the study: level of the trial")
    rows = [[name, known.get(name) or column_help(name)] for name in store.results().columns]
    print_table(["column", "content"], rows, ())


def print_layers(workdir: str | os.PathLike[str], measure: str) -> None:
    """Prints a measure of the parameter change of each layer: mean and 95% interval over seeds, one column per setting.

    Raises:
      UserError: no trial of the study has the measure.
    """
    from jaxft.analysis.measures import MEASURES
    from jaxft.analysis.statistics import mean_interval
    from jaxft.report.methods import interval_text
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    plan, changes = store.plan(), store.changes()
    if changes.empty:
        print_lines("no trial has run yet.")
        return
    measures = [name for name in changes.columns if name not in ("trial", "setting", "seed", "layer")]
    if measure not in measures:
        raise UserError(
            f"no trial of this study has the measure {measure!r}{did_you_mean(measure, measures)}; allowed: "
            f"{', '.join(measures)}."
        )
    measured = changes.astype({measure: "float64"}).groupby(["layer", "setting"])[measure]
    intervals = {layer_and_setting: mean_interval(values.to_numpy()) for layer_and_setting, values in measured}
    rows = []
    for layer in plan["layers"]:
        cells = [intervals.get((layer, i)) for i in range(len(plan["settings"]))]
        rows.append([layer, *(MISSING if c is None else f"{c.mean:.3g} ± {c.half_width:.2g}" for c in cells)])
    header = ["layer", *(f"setting {i}" for i in range(len(plan["settings"])))]
    print_table(header, rows, range(1, len(header)))
    for i, levels in enumerate(plan["settings"]):
        print_lines(f"setting {i}: " + ", ".join(f"{name} = {level}" for name, level in levels.items()))
    meaning = MEASURES[measure].help if measure in MEASURES else ""
    counts = [interval.num_values for interval in intervals.values()]
    print_lines(f"{measure} of each layer{f', {meaning}' if meaning else ''}: mean and {interval_text(plan, counts)}.")
