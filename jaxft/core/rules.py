"""Ordered rules that assign values to parameters by patterns of their names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import re2

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.paths import layer_of
from jaxft.core.tables import format_table
from jaxft.core.text import MOST_NAMED, shown, some_of

T = TypeVar("T")


@dataclass(frozen=True)
class Rule(Generic[T]):
    """A rule that assigns `value` to every name that the regular expression `pattern` matches as a whole.

    Attributes:
      pattern: the regular expression, in the syntax of RE2: the time of a match is linear in the length of the name.
      value: the value.
      optional: whether the rule may match no name; otherwise this is an error.
      exclude: names that this regular expression matches as a whole are left out; if empty, none.
    """

    pattern: str
    value: T
    optional: bool = False
    exclude: str = ""

    @property
    def text(self) -> str:
        """Returns the rule in words, for tables: '.* except head/.*'."""
        return f"{self.pattern} except {self.exclude}" if self.exclude else self.pattern


@dataclass(frozen=True)
class Match(Generic[T]):
    """The value of one name, and the text of the rule that assigned it."""

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
    names_by_rule = [_names_of(rule, names, kind) for rule in rules]
    matches: dict[str, Match[T]] = {}
    used: set[int] = set()
    for name in names:
        first = next((i for i, covered in enumerate(names_by_rule) if name in covered), None)
        if first is not None:
            used.add(first)
            matches[name] = Match(rules[first].value, rules[first].text)

    problems = []
    uncovered = [name for name in names if name not in matches]
    if uncovered:
        problems.append(f"no {kind} matches {some_of(uncovered)}")
    for i, rule in enumerate(rules):
        if i not in used and not rule.optional:
            why = (
                "has no effect, because earlier rules match all its parameters"
                if names_by_rule[i]
                else f"matches no parameter{_nearest(rule.pattern, names)}"
            )
            problems.append(f"{kind} {shown(rule.pattern)} {why}")
    if problems:
        more = f"; and {len(problems) - MOST_NAMED:,} more problems" if len(problems) > MOST_NAMED else ""
        raise UserError("; ".join(problems[:MOST_NAMED]) + more + ".")
    return matches


def _names_of(rule: Rule[Any], names: Iterable[str], kind: str) -> set[str]:
    """Returns the names that a rule matches, without those that it excludes."""
    pattern = _compiled(rule.pattern, kind)
    covered = {name for name in names if pattern.fullmatch(name)}
    return covered - _names_of(Rule(rule.exclude, None), names, kind) if rule.exclude else covered


def _compiled(pattern: str, kind: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error.args[0]
        raise UserError(
            f"{kind} {shown(pattern)} is not a regular expression of RE2, which has no lookahead: {shown(reason)}."
        ) from None


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
