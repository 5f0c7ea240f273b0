"""`jaxft config show`: every field of a study with its value, and what the study comes to."""

import argparse
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from jaxft.config import FROZEN, LayerRate, Study, fields_of, load_config

if TYPE_CHECKING:
    from jaxft.study.plan import Plan, PlannedTrial

HELP = "show a config: every field, the factors, and what the study comes to"
MOST_RATES = 8  # that a rule has in one line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("action", choices=["show"], help="what to do")
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="the study's config file")
    parser.add_argument("--layers", action="store_true", help="the learning rate of every parameter, too")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the fields, then the plan."""
    study = load_config(args.config, overrides).study
    usual = {name: value for name, value, _ in fields_of(Study())}
    print("field (* differs from the default)")
    for name, value, field in fields_of(study):
        if name == "factors":
            continue
        changed = "*" if name not in usual or usual[name] != value else " "
        note = field.metadata.get("help", "")
        print(f"{changed} {name:<34} {_shown(value):<24} {note}")
    print("\nfactors (blocks of levels; their union is the study)")
    for i, block in enumerate(study.factors or ({},), 1):
        for name, levels in block.items():
            print(f"  {i}  {name:<31} {', '.join(_shown(level) for level in levels)}")
        if not block:
            print("  none")
    from jaxft.study.plan import make_plan

    plan = make_plan(study)
    print(
        f"\n{len(plan.trials)} trials = {len(plan.settings)} settings x {len(study.seeds)} seeds, in "
        f"{len(plan.groups)} groups; {plan.num_programs} training programs, "
        f"{len(plan.sources)} sources to train first; {plan.weights_line()}."
    )
    if args.layers:
        print_layers(plan)
    return 0


def print_layers(plan: "Plan") -> None:
    """Prints the resolved learning rates of each different set of rules."""
    from jaxft.core.rules import Match, format_matches

    seen = set()
    for trial in plan.trials:
        rates = {name: Match(_rate(rate), trial.layers[name].pattern) for name, rate in rates_of(trial).items()}
        table = tuple(rates.items())
        if table in seen:
            continue
        seen.add(table)
        levels = ", ".join(f"{name} = {_shown(level)}" for name, level in plan.levels(trial.trial).items())
        print(f"\n{levels or trial.model.architecture}\n{format_matches(rates, sizes_of(trial), 'learning rate')}")


def group_tables(trials: "Iterable[PlannedTrial]") -> list[str]:
    """Returns a table for each different set of rules that trials have: of each rule what it makes of how much.

    That is the learning rate at the peak of the schedule, all there are among the trials and from the lowest unit's to
    the highest's where it falls with the depth; how many leaves, and parameters, the rule decides on; and when they
    begin to train, where that is later than at the first step. Classifiers of features, whose network rests, have none.
    """
    tables: dict[Any, list[PlannedTrial]] = {}
    for trial in (trial for trial in trials if trial.readout is None):
        rules = tuple((name, match.pattern, match.value == FROZEN) for name, match in trial.layers.items())
        joined = trial.program.phases[-1].optimizer.joined
        tables.setdefault((trial.model, rules, joined), []).append(trial)
    return [_group_table(members) for members in tables.values()]


def _group_table(trials: "Sequence[PlannedTrial]") -> str:
    first = trials[0]
    sizes, joined = sizes_of(first), dict(first.program.phases[-1].optimizer.joined)
    groups: dict[tuple[str, int], list[str]] = {}
    for name, match in first.layers.items():
        groups.setdefault((match.pattern, joined.get(name, 0)), []).append(name)
    rows = [("rule", "learning rate", "leaves", "parameters", "")]
    by_steps = [not trial.program.phases[-1].whole for trial in trials]
    rates = [rates_of(trial) for trial in trials]
    for (pattern, step), names in groups.items():
        spans = dict.fromkeys(
            _span([of[name] for name in names], has_rate) for of, has_rate in zip(rates, by_steps, strict=True)
        )
        shown = ", ".join(spans)
        if len(spans) > MOST_RATES:
            every = [rate for of in rates for name in names if not isinstance(rate := of[name], str)]
            shown = f"{len(spans)} from {_span(every, True)}"
        late = f"from step {step}" if step else ""
        rows.append((pattern, shown, f"{len(names):,}", f"{sum(sizes[name] for name in names):,}", late))
    trained = sum(sizes[name] for name, match in first.layers.items() if match.value != FROZEN)
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"{rule:<{widths[0]}}  {rate:<{widths[1]}}  {leaves:>{widths[2]}}  {size:>{widths[3]}}  {late}".rstrip()
        for rule, rate, leaves, size, late in rows
    ]
    stepped = [trial.trial.training for trial, has_rate in zip(trials, by_steps, strict=True) if has_rate]
    effective = list(dict.fromkeys(f"{training.optimizer.effective_rate:.4g}" for training in stepped))
    some = effective if len(effective) <= MOST_RATES else [*effective[:MOST_RATES], "..."]
    of_head = f"; the head's effective rate at the peak is {', '.join(some)}" if some else ""
    total = f"{first.model.architecture}: {trained:,} of {sum(sizes.values()):,} parameters train{of_head}"
    return "\n".join([*lines, total])


def rates_of(trial: "PlannedTrial") -> dict[str, LayerRate]:
    """Returns the learning rate of each parameter of a trial at the peak of the schedule, or 'frozen'."""
    from jaxft.training.optimizers import resolve_rates
    from jaxft.training.phases import unit_depths

    return resolve_rates(trial.trial.training, trial.layers, unit_depths(trial.model, trial.layers))


def sizes_of(trial: "PlannedTrial") -> dict[str, int]:
    """Returns how many numbers each parameter of a trial's network has."""
    return {name: math.prod(trial.shapes[f"params/{name}"]) for name in trial.layers}


def _span(rates: "Sequence[LayerRate]", has_rate: bool) -> str:
    numbers = [rate for rate in rates if not isinstance(rate, str)]
    if not numbers:
        return FROZEN
    if not has_rate:
        return "none, by L-BFGS"
    low, high = f"{min(numbers):.4g}", f"{max(numbers):.4g}"
    return high if low == high else f"{low} to {high}"


def _rate(rate: LayerRate) -> LayerRate:
    return rate if isinstance(rate, str) else float(f"{rate:.6g}")


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
