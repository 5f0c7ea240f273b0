"""`jaxft results`: the table of a study, from its work directory."""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from jaxft.config.labels import label
from jaxft.recipes.results import load_results, load_selected, open_arms

HELP = "print a study's results: means and intervals, or every trial"

CHANGE_RATES = {"training.optimizer.momentum", "training.optimizer.name", "training.optimizer.effective_learning_rate"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("workdir", metavar="DIR", help="work directory of a study")
    parser.add_argument("--trials", action="store_true", help="every trial, instead of means over seeds")
    parser.add_argument("--layers", action="store_true", help="relative change of each layer, in each setting")
    parser.add_argument("--selected", action="store_true", help="the arms, each at the level selected on validation")
    parser.add_argument("--csv", action="store_true", help="every trial, as CSV; with --selected those selected")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the table."""
    if args.csv:
        load = load_selected if args.selected else load_results
        load(args.workdir).to_csv(sys.stdout, index=False)
    elif args.selected:
        print_selected(args.workdir)
    elif args.trials:
        print_trials(args.workdir)
    elif args.layers:
        print_layers(args.workdir)
    else:
        print_summary(args.workdir)
    return 0


def print_summary(workdir: str | os.PathLike[str]) -> None:
    """Prints a row a setting: accuracy with its 95% interval over seeds, and the change of the body."""
    from jaxft.report.page import chosen_setting, summarise
    from jaxft.report.selection import select_over
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    plan, results = store.plan(), store.results()
    settings, levels, columns = summarise(plan, results), level_texts(plan), test_columns(plan)
    best = chosen_setting(settings)
    rates = [f"{rate:.3g}" for rate in plan.get("effective_rates", [])]
    shows_rates = len(set(rates)) > 1 and bool({*plan["factors"]} & CHANGE_RATES)
    rows = []
    for setting in settings:
        mark = " *" if setting is best else ""
        done = f"{setting.done}/{setting.planned}" + (f", {setting.diverged} diverged" if setting.diverged else "")
        change = f"{setting.change.mean:.3g}" if setting.change.num_values else "–"
        tested = [interval(setting.test), interval(setting.per_class)][: len(columns)]
        rate = rates[setting.number : setting.number + shows_rates]
        rows.append([*levels[setting.number], *rate, done, percent(setting.val.mean), *tested, change + mark])
    rate = ["effective rate"] * shows_rates
    print_table([*plan["factors"], *rate, "trials", "validation %", *columns, "change"], rows, len(plan["factors"]))
    left = len(plan["trials"]) - len(results)
    if left:
        print(f"{left} of {len(plan['trials'])} trials have not run yet.")
    for _, row in results[results["status"] == "failed"].iterrows():
        failure = store.read("failures", row["trial"]) or {}
        print(f"trial {row['trial']} failed: {str(failure.get('error')).splitlines()[0]}")
    if best is not None:
        print("* best on validation.")
    print("test: mean and 95% interval over seeds. change: |w - w0| / |w0| below the head.")
    if shows_rates:
        print("effective rate: of the head at the peak; of sgd the learning rate over one minus the momentum.")
    if len(columns) > 1:
        print(
            "per class: the mean over the classes of the test accuracy on each; some have many more images than others."
        )
    if select_over(plan):
        print_selected(workdir)


def test_columns(plan: Mapping[str, Any]) -> list[str]:
    """Returns the columns for test accuracy: that per class too, where it may say something else."""
    return ["test %", "per class %"] if plan.get("uneven") else ["test %"]


def level_texts(plan: Mapping[str, Any]) -> list[list[str]]:
    """Returns the levels of each setting as short texts: names of files in the place of paths."""
    from jaxft.report.figures import distinct, level_key, level_labels

    labels = {name: level_labels(distinct([s.get(name) for s in plan["settings"]])) for name in plan["factors"]}
    return [[labels[name][level_key(s.get(name))] for name in plan["factors"]] for s in plan["settings"]]


def print_selected(workdir: str | os.PathLike[str]) -> None:
    """Prints a row an arm, each seed at the level it selected on validation; then the differences, paired by seed."""
    from jaxft.report.selection import contrasts_of, select_over, selected_text
    from jaxft.report.template import p_value, points

    store, arms = open_arms(workdir)
    plan = store.plan()
    over, columns = select_over(plan), test_columns(plan)
    rows = []
    for arm in arms:
        seeds = f"{len(arm.selected)}/{arm.planned}" + (f", {arm.diverged} diverged" if arm.diverged else "")
        tested = [interval(arm.test), interval(arm.per_class)][: len(columns)]
        rows.append([arm.label, selected_text(arm, over, arms), seeds, percent(arm.val.mean), *tested])
    print_table(["arm", "selected (seeds)", "seeds", "validation %", *columns], rows, 2)
    print(f"selected on validation in each arm, by each seed for itself: {', '.join(over)}.")
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
    print_table(["difference", "test, points", "p (Holm)", "pairs"], rows, 1)
    print("difference: mean over seeds and 95% interval, paired by seed; p: paired t test, adjusted for all of them.")


def print_trials(workdir: str | os.PathLike[str]) -> None:
    """Prints a row a trial."""
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    plan = store.plan()
    factors, levels, columns = plan["factors"], level_texts(plan), test_columns(plan)
    rows = [
        [
            row["trial"],
            *levels[row["setting"]],
            f"{row['seed']}",
            row["status"],
            percent(row["val_accuracy"]),
            *(percent(row[name]) for name in ("test_accuracy", "test_mean_per_class")[: len(columns)]),
            f"{row['seconds']:.1f}",
        ]
        for _, row in store.results().iterrows()
    ]
    print_table(["trial", *factors, "seed", "status", "validation %", *columns, "seconds"], rows, 1 + len(factors))


def print_layers(workdir: str | os.PathLike[str]) -> None:
    """Prints the relative change of each layer: mean and 95% interval over seeds, a column a setting."""
    from jaxft.analysis.statistics import mean_interval
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    plan, changes = store.plan(), store.changes()
    if changes.empty:
        print("no trial has run yet.")
        return
    measured = changes.astype({"relative_l2": "float64"}).groupby(["layer", "setting"])["relative_l2"]
    intervals = {place: mean_interval(values.to_numpy()) for place, values in measured}
    rows = []
    for layer in plan["layers"]:
        cells = [intervals.get((layer, i)) for i in range(len(plan["settings"]))]
        rows.append([layer, *("–" if c is None else f"{c.mean:.3g} ± {c.half_width:.2g}" for c in cells)])
    print_table(["layer", *(f"setting {i}" for i in range(len(plan["settings"])))], rows, 1)
    for i, levels in enumerate(plan["settings"]):
        print(f"setting {i}: " + ", ".join(f"{name} = {level}" for name, level in levels.items()))
    print("relative change |w - w0| / |w0| of each layer: mean and 95% interval over seeds.")


def print_table(header: list[str], rows: list[list[str]], num_words: int) -> None:
    """Prints a table whose first `num_words` columns are words and the rest numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        title = label(name) if sys.stdout.isatty() and "." in name else name
        table.add_column(title, justify="left" if i < num_words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A log has no width of its own; a narrow one would cut numbers off.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 1000)
    console.print(table)


def percent(value: float) -> str:
    """Returns a share as percent with one digit; a dash where there is none."""
    return "–" if value != value else f"{100 * value:.1f}"


def interval(value: tuple[float, float, int]) -> str:
    """Returns a mean and half the width of its interval, in percent."""
    mean, half_width, count = value
    return percent(mean) + (f" ± {100 * half_width:.1f}" if count > 1 else "")
