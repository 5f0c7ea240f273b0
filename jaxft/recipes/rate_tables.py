"""Tables of the learning rates of a study, with one row per rule."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from jaxft.config import FROZEN, LayerRate
from jaxft.core.tables import format_table
from jaxft.core.text import some_of

if TYPE_CHECKING:
    from jaxft.study.planned import PlannedTrial

MAX_RATES = 8  # in one cell
MAX_LINES = 12  # of all tables together, before a run


def rate_tables(trials: "Iterable[PlannedTrial]") -> list[str]:
    """Returns a table of learning rates, as text, for each distinct set of rules among the trials.

    A row has the rule, its learning rates at the peak of the schedule, the number of leaves and of parameters with this
    rule, and the step at which they join training if it is not the first. Trials with different learning rates share a
    cell. With layer-wise decay, a learning rate is a range, from the lowest to the highest block. Trials that classify
    features have no table.
    """
    tables: dict[Any, list[PlannedTrial]] = {}
    for trial in (trial for trial in trials if trial.feature_classifier is None):
        rules = tuple((name, match.pattern, match.value == FROZEN) for name, match in trial.layers.items())
        joined = trial.program.phases[-1].optimizer.joined
        tables.setdefault((trial.model, rules, joined), []).append(trial)
    return [_rate_table(members) for members in tables.values()]


def first_lines(tables: Sequence[str]) -> list[str]:
    """Returns at most `MAX_LINES` lines of the tables, so they do not hide a later error, and an empty line."""
    lines = "\n\n".join(tables).splitlines()
    if len(lines) > MAX_LINES:
        note = f"... {len(lines) - MAX_LINES} more lines; `jaxft study --dry-run` prints all"
        lines = [*lines[:MAX_LINES], note]
    return [*lines, ""]


def _rate_table(trials: "Sequence[PlannedTrial]") -> str:
    """Returns the table of trials with the same rules, and a line with their totals."""
    first = trials[0]
    sizes, joined = parameter_sizes(first), dict(first.program.phases[-1].optimizer.joined)
    groups: dict[tuple[str, int], list[str]] = {}
    for name, match in first.layers.items():
        groups.setdefault((match.pattern, joined.get(name, 0)), []).append(name)
    rates = [(peak_rates(trial), not trial.program.phases[-1].is_full_batch) for trial in trials]
    rows = []
    for (pattern, step), names in groups.items():
        num_params = sum(sizes[name] for name in names)
        joins = f"from step {step}" if step else ""
        rows.append((pattern, _rate_cell(rates, names), f"{len(names):,}", f"{num_params:,}", joins))
    table = format_table(["rule", "learning rate", "leaves", "parameters", ""], rows, numbers={2, 3}, ruled=False)
    return f"{table}\n{_totals(trials, sizes)}"


def _rate_cell(rates: "Sequence[tuple[dict[str, LayerRate], bool]]", names: Sequence[str]) -> str:
    """Returns the learning rates of some leaves over all trials, as text.

    Args:
      rates: for each trial, the learning rate of each leaf, and whether the last phase has a learning rate.
      names: the names of the leaves.
    """
    spans = dict.fromkeys(_span([by_leaf[name] for name in names], has_rate) for by_leaf, has_rate in rates)
    if len(spans) <= MAX_RATES:
        return ", ".join(spans)
    numbers = [rate for by_leaf, _ in rates for name in names if not isinstance(rate := by_leaf[name], str)]
    return f"{len(spans)} values, {_span(numbers, has_rate=True)}"


def _totals(trials: "Sequence[PlannedTrial]", sizes: dict[str, int]) -> str:
    """Returns the number of trainable parameters, and the effective learning rates of the head, as text."""
    first = trials[0]
    num_trained = sum(sizes[name] for name, match in first.layers.items() if match.value != FROZEN)
    with_rate = [trial.trial.training for trial in trials if not trial.program.phases[-1].is_full_batch]
    effective = list(dict.fromkeys(f"{training.optimizer.effective_rate:.4g}" for training in with_rate))
    head = f"; effective learning rate of the head at the peak: {some_of(effective, MAX_RATES)}" if effective else ""
    return f"{first.model.architecture}: {num_trained:,} of {sum(sizes.values()):,} parameters are trainable{head}"


def peak_rates(trial: "PlannedTrial") -> dict[str, LayerRate]:
    """Returns the learning rate at the peak of the schedule, or 'frozen', of each parameter of a trial."""
    from jaxft.training.learning_rates import resolve_rates
    from jaxft.training.phases import block_depths

    return resolve_rates(trial.trial.training, trial.layers, block_depths(trial.model, trial.layers))


def parameter_sizes(trial: "PlannedTrial") -> dict[str, int]:
    """Returns the number of elements of each parameter array of the network of a trial."""
    return {name: math.prod(trial.shapes[f"params/{name}"]) for name in trial.layers}


def _span(rates: "Sequence[LayerRate]", has_rate: bool) -> str:
    """Returns the range of some learning rates as text: '0.1', '0.01 to 0.1', 'frozen' or 'none, by L-BFGS'."""
    numbers = [rate for rate in rates if not isinstance(rate, str)]
    if not numbers:
        return FROZEN
    if not has_rate:
        return "none, by L-BFGS"
    low, high = f"{min(numbers):.4g}", f"{max(numbers):.4g}"
    return high if low == high else f"{low} to {high}"
