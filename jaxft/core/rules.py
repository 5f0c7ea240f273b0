"""Ordered rules that assign values to parameters by patterns of their names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.paths import layer_of
from jaxft.core.tables import format_table
from jaxft.core.text import MOST_NAMED, some_of

T = TypeVar("T")


@dataclass(frozen=True)
class Rule(Generic[T]):
    """A rule that assigns `value` to every name that the regular expression `pattern` matches as a whole.

    A rule that matches no name is an error, unless it is `optional`.
    """

    pattern: str
    value: T
    optional: bool = False


@dataclass(frozen=True)
class Match(Generic[T]):
    """The value of one name, and the pattern of the rule that assigned it."""

    value: T
    pattern: str


def match_rules(rules: Sequence[Rule[T]], names: Iterable[str], kind: str = "rule") -> dict[str, Match[T]]:
    """Returns the first matching rule of each name.

    Args:
      rules: the rules, in order.
      names: names of parameters.
      kind: name of the rules in messages.

    Raises:
      UserError: a pattern is not a regular expression, a name has no rule, or a rule that is not optional is the first
        match of no name.
    """
    names = list(names)
    compiled = []
    for rule in rules:
        try:
            compiled.append(re.compile(rule.pattern))
        except re.error as error:
            raise UserError(f"{kind} {rule.pattern!r} is not a regular expression: {error}.") from None

    matches: dict[str, Match[T]] = {}
    used: set[int] = set()
    for name in names:
        first = next((i for i, regex in enumerate(compiled) if regex.fullmatch(name)), None)
        if first is not None:
            used.add(first)
            matches[name] = Match(rules[first].value, rules[first].pattern)

    problems = []
    uncovered = [name for name in names if name not in matches]
    if uncovered:
        problems.append(f"no {kind} matches {some_of(uncovered)}")
    for i, rule in enumerate(rules):
        if i not in used and not rule.optional:
            shadowed = any(compiled[i].fullmatch(name) for name in names)
            why = (
                "has no effect, because earlier rules match all its parameters"
                if shadowed
                else f"matches no parameter{_nearest(rule.pattern, names)}"
            )
            problems.append(f"{kind} {rule.pattern!r} {why}")
    if problems:
        more = f"; and {len(problems) - MOST_NAMED:,} more problems" if len(problems) > MOST_NAMED else ""
        raise UserError("; ".join(problems[:MOST_NAMED]) + more + ".")
    return matches


def format_matches(matches: Mapping[str, Match[Any]], sizes: Mapping[str, int], heading: str = "value") -> str:
    """Returns a table with a row for each leaf: name, number of values, assigned value, pattern of the rule.

    Args:
      matches: the matches by name of the leaf.
      sizes: the number of values of each leaf.
      heading: heading of the column of assigned values.
    """
    rows = [(name, f"{sizes[name]:,}", str(match.value), match.pattern) for name, match in matches.items()]
    return format_table(["parameter", "values", heading, "rule"], rows, numbers={1}, ruled=False)


def _nearest(pattern: str, names: Sequence[str]) -> str:
    inside = [name for name in names if name.startswith(pattern.rstrip("/") + "/")]
    if inside:
        return f" (rules match whole names: did you mean {pattern.rstrip('/') + '/.*'!r}?)"
    candidates = {*names, *(layer_of(name) + "/.*" for name in names)}
    candidates |= {name.partition("/")[0] + "/.*" for name in names}
    return did_you_mean(pattern, sorted(candidates))
