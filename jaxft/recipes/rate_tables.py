"""Tables of the learning rates of a study's trials: a row for each rule, with the parameters that it decides on."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from jaxft.config import FROZEN, LayerRate
from jaxft.core.tables import format_table
from jaxft.core.text import some_of

if TYPE_CHECKING:
    from jaxft.study.planned import PlannedTrial

MAX_RATES = 8  # shown in one cell


def rate_tables(trials: "Iterable[PlannedTrial]") -> list[str]:
    """Returns a table for each different set of rules among the trials, as text.

    A row of a table has a rule, its learning rates at the peak of the schedule (one for each different trial; from the
    lowest unit's to the highest unit's if the rate falls with depth), how many leaves and parameters the rule decides
    on, and the step from which they train if it is not the first. Trials that classify features have no table.
    """
    tables: dict[Any, list[PlannedTrial]] = {}
    for trial in (trial for trial in trials if trial.feature_classifier is None):
        rules = tuple((name, match.pattern, match.value == FROZEN) for name, match in trial.layers.items())
        joined = trial.program.phases[-1].optimizer.joined
        tables.setdefault((trial.model, rules, joined), []).append(trial)
    return [_rate_table(members) for members in tables.values()]


def _rate_table(trials: "Sequence[PlannedTrial]") -> str:
    first = trials[0]
    sizes, joined = parameter_sizes(first), dict(first.program.phases[-1].optimizer.joined)
    groups: dict[tuple[str, int], list[str]] = {}
    for name, match in first.layers.items():
        groups.setdefault((match.pattern, joined.get(name, 0)), []).append(name)
    rates = [(peak_rates(trial), not trial.program.phases[-1].is_full_batch) for trial in trials]
    rows = []
    for (pattern, step), names in groups.items():
        num_params = sum(sizes[name] for name in names)
        late = f"from step {step}" if step else ""
        rows.append((pattern, _rate_cell(rates, names), f"{len(names):,}", f"{num_params:,}", late))
    table = format_table(["rule", "learning rate", "leaves", "parameters", ""], rows, numbers={2, 3}, ruled=False)
    return f"{table}\n{_totals(trials, sizes)}"


def _rate_cell(rates: "Sequence[tuple[dict[str, LayerRate], bool]]", names: Sequence[str]) -> str:
    """Returns the rates of the leaves `names`; `rates` has those of each trial, and whether it trains by steps."""
    spans = dict.fromkeys(_span([of_leaf[name] for name in names], by_steps) for of_leaf, by_steps in rates)
    if len(spans) <= MAX_RATES:
        return ", ".join(spans)
    numbers = [rate for of_leaf, _ in rates for name in names if not isinstance(rate := of_leaf[name], str)]
    return f"{len(spans)} from {_span(numbers, by_steps=True)}"


def _totals(trials: "Sequence[PlannedTrial]", sizes: dict[str, int]) -> str:
    """Returns how many parameters train, and the effective learning rates of the head."""
    first = trials[0]
    num_trained = sum(sizes[name] for name, match in first.layers.items() if match.value != FROZEN)
    by_steps = [trial.trial.training for trial in trials if not trial.program.phases[-1].is_full_batch]
    effective = list(dict.fromkeys(f"{training.optimizer.effective_rate:.4g}" for training in by_steps))
    of_head = f"; the head's effective rate at the peak is {some_of(effective, MAX_RATES)}" if effective else ""
    return f"{first.model.architecture}: {num_trained:,} of {sum(sizes.values()):,} parameters train{of_head}"


def peak_rates(trial: "PlannedTrial") -> dict[str, LayerRate]:
    """Returns the learning rate of each parameter of a trial at the peak of the schedule, or 'frozen'."""
    from jaxft.training.learning_rates import resolve_rates
    from jaxft.training.phases import block_depths

    return resolve_rates(trial.trial.training, trial.layers, block_depths(trial.model, trial.layers))


def parameter_sizes(trial: "PlannedTrial") -> dict[str, int]:
    """Returns the number of elements of each parameter of a trial's network."""
    return {name: math.prod(trial.shapes[f"params/{name}"]) for name in trial.layers}


def _span(rates: "Sequence[LayerRate]", by_steps: bool) -> str:
    numbers = [rate for rate in rates if not isinstance(rate, str)]
    if not numbers:
        return FROZEN
    if not by_steps:
        return "none, by L-BFGS"
    low, high = f"{min(numbers):.4g}", f"{max(numbers):.4g}"
    return high if low == high else f"{low} to {high}"
