"""`jaxft config show`: every field of a study with its value, its factors, and its size."""

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from jaxft.commands.arguments import add_config_argument
from jaxft.config import Images, LayerRate, Study, fields_of, load_config
from jaxft.core.printing import print_lines
from jaxft.core.tables import print_table
from jaxft.core.text import escaped
from jaxft.recipes.rate_tables import parameter_sizes, peak_rates

if TYPE_CHECKING:
    from jaxft.study.planned import Plan

HELP = "show the config of a study: every field with its value and meaning, the factors, and the number of trials"
TAKES_CONFIG = True
VALUE_CHARACTERS = 32  # per line, in the column of values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("action", choices=["show"], help="'show' prints the config")
    add_config_argument(parser)
    parser.add_argument("--layers", action="store_true", help="also print the learning rate of every parameter")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the fields, the factors and the size of the study."""
    from jaxft.study.plan import make_plan

    study = load_config(args.config, overrides).study
    plan = make_plan(study)  # errors and warnings come before the table
    # A set of images that is None by default has the defaults of a set of images.
    defaults = {name: value for name, value, _ in (*fields_of(Images(), "source.images"), *fields_of(Study()))}
    rows = []
    for name, value, field in fields_of(study):
        if name != "factors":
            changed = "*" if defaults[name] != value else ""
            first, *more = _wrapped(_text(value))
            rows.append((changed, name, first, field.metadata.get("help", "")))
            rows += [("", "", line, "") for line in more]
    print_table(["*", "field (* differs from the default)", "value", "meaning"], rows, (), ruled=False)
    print_lines("", "factors (each block is a product of levels; the study is the union of all blocks)")
    level_rows = [
        (str(i), name, ", ".join(map(_text, levels)))
        for i, block in enumerate(study.factors, 1)
        for name, levels in block.items()
    ]
    print_table(["block", "factor", "levels"], level_rows or [("none", "", "")], (), ruled=False)
    print_lines("", f"{plan.size_line()}.")
    if args.layers:
        print_layers(plan)
    return 0


def print_layers(plan: "Plan") -> None:
    """Prints the learning rate of every parameter, once for each distinct set of learning rates."""
    from jaxft.core.rules import Match, format_matches

    seen = set()
    for trial in plan.trials:
        rates = {name: Match(_rate(rate), trial.layers[name].pattern) for name, rate in peak_rates(trial).items()}
        key = tuple(rates.items())
        if key in seen:
            continue
        seen.add(key)
        levels = ", ".join(f"{name} = {_text(level)}" for name, level in plan.levels(trial.trial).items())
        table = format_matches(rates, parameter_sizes(trial), "learning rate")
        print_lines("", levels or trial.model.architecture, *table.split("\n"))


def _rate(rate: LayerRate) -> LayerRate:
    """Returns a learning rate with six digits, or 'frozen'."""
    return rate if isinstance(rate, str) else float(f"{rate:.6g}")


def _wrapped(text: str) -> list[str]:
    """Returns the lines of `text`, each of at most `VALUE_CHARACTERS`."""
    return textwrap.wrap(escaped(text), VALUE_CHARACTERS) or [text]


def _text(value: Any) -> str:
    """Returns a value of a config as text: 'none' for None, lists in brackets."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
