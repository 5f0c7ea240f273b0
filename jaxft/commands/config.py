"""`jaxft config show`: every field of a study with its value, and what the study comes to."""

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from jaxft.config import LayerRate, Study, fields_of, load_config
from jaxft.core.tables import print_table
from jaxft.recipes.rate_tables import parameter_sizes, peak_rates

if TYPE_CHECKING:
    from jaxft.study.planned import Plan

HELP = "show a config: every field, the factors, and what the study comes to"
TAKES_CONFIG = True
VALUE_CHARACTERS = 32  # in a line of the column of values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("action", choices=["show"], help="what to do")
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="the study's config file")
    parser.add_argument("--layers", action="store_true", help="the learning rate of every parameter, too")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the fields, then the plan."""
    study = load_config(args.config, overrides).study
    defaults = {name: value for name, value, _ in fields_of(Study())}
    rows = []
    for name, value, field in fields_of(study):
        if name != "factors":
            changed = "*" if name not in defaults or defaults[name] != value else ""
            rows.append((changed, name, _wrapped(_shown(value)), field.metadata.get("help", "")))
    print_table(["*", "field (* differs from the default)", "value", "meaning"], rows, (), ruled=False)
    print("\nfactors (blocks of levels; their union is the study)")
    levels_of = [
        (str(i), name, ", ".join(map(_shown, levels)))
        for i, block in enumerate(study.factors, 1)
        for name, levels in block.items()
    ]
    print_table(["block", "factor", "levels"], levels_of or [("none", "", "")], (), ruled=False)
    from jaxft.study.plan import make_plan

    plan = make_plan(study)
    print(f"\n{plan.size_line()}.")
    if args.layers:
        print_layers(plan)
    return 0


def print_layers(plan: "Plan") -> None:
    """Prints the resolved learning rates of each different set of rules."""
    from jaxft.core.rules import Match, format_matches

    seen = set()
    for trial in plan.trials:
        rates = {name: Match(_rate(rate), trial.layers[name].pattern) for name, rate in peak_rates(trial).items()}
        table = tuple(rates.items())
        if table in seen:
            continue
        seen.add(table)
        levels = ", ".join(f"{name} = {_shown(level)}" for name, level in plan.levels(trial.trial).items())
        print(
            f"\n{levels or trial.model.architecture}\n{format_matches(rates, parameter_sizes(trial), 'learning rate')}"
        )


def _rate(rate: LayerRate) -> LayerRate:
    return rate if isinstance(rate, str) else float(f"{rate:.6g}")


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, VALUE_CHARACTERS)) or text


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
