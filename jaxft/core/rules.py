"""Ordered rules that select parameters by the pattern of their names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.paths import layer_of
from jaxft.core.tables import format_table
from jaxft.core.text import some_of

T = TypeVar("T")
MOST_NAMED = 4  # parameters in an error


@dataclass(frozen=True)
class Rule(Generic[T]):
    """`value` for every name that `pattern` matches as a whole; an `optional` rule may match nothing."""

    pattern: str
    value: T
    optional: bool = False


@dataclass(frozen=True)
class Match(Generic[T]):
    """What the rules say of one name: the value, and the pattern of the rule that decided."""

    value: T
    pattern: str


def match_rules(rules: Sequence[Rule[T]], names: Iterable[str], what: str = "rule") -> dict[str, Match[T]]:
    """Returns what the first matching rule says of each name.

    Raises a `UserError` that names every leaf no rule covers, every rule that decides nothing and is not
    optional, and every pattern that is no regular expression. `what` says in the message which rules they are.
    """
    names = list(names)
    compiled = []
    for rule in rules:
        try:
            compiled.append(re.compile(rule.pattern))
        except re.error as error:
            raise UserError(f"{what} {rule.pattern!r} is not a regular expression: {error}.") from None

    decided: dict[str, Match[T]] = {}
    used: set[int] = set()
    for name in names:
        first = next((i for i, regex in enumerate(compiled) if regex.fullmatch(name)), None)
        if first is not None:
            used.add(first)
            decided[name] = Match(rules[first].value, rules[first].pattern)

    problems = []
    uncovered = [name for name in names if name not in decided]
    if uncovered:
        problems.append(f"no {what} covers {some_of(uncovered, MOST_NAMED)}")
    for i, rule in enumerate(rules):
        if i not in used and not rule.optional:
            shadowed = any(compiled[i].fullmatch(name) for name in names)
            why = (
                "decides nothing, because earlier rules match first all that it matches"
                if shadowed
                else f"matches no parameter{_nearest(rule.pattern, names)}"
            )
            problems.append(f"{what} {rule.pattern!r} {why}")
    if problems:
        raise UserError("; ".join(problems) + ".")
    return decided


def format_matches(matches: Mapping[str, Match[Any]], sizes: Mapping[str, int], heading: str = "value") -> str:
    """Returns a table of what was decided for each leaf: name, number of values, value, deciding rule."""
    rows = [(name, f"{sizes[name]:,}", str(match.value), match.pattern) for name, match in matches.items()]
    return format_table(["parameter", "values", heading, "rule"], rows, numbers={1}, ruled=False)


def _nearest(pattern: str, names: Sequence[str]) -> str:
    inside = [name for name in names if name.startswith(pattern.rstrip("/") + "/")]
    if inside:
        return f" (a rule matches the whole name: did you mean {pattern.rstrip('/') + '/.*'!r}?)"
    candidates = {*names, *(layer_of(name) + "/.*" for name in names)}
    candidates |= {name.partition("/")[0] + "/.*" for name in names}
    return did_you_mean(pattern, sorted(candidates))
