"""Names of parameters and the rules that select them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.core.errors import UserError
from jaxft.core.paths import flatten, layer_of, unflatten
from jaxft.core.rules import Match, Rule, format_matches, match_rules

NAMES = ["stem/conv/kernel", "stage1/block1/conv1/kernel", "stage1/block1/bn1/scale", "head/kernel", "head/bias"]
KEYS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=4)
TREES = st.recursive(st.integers(), lambda node: st.dictionaries(KEYS, node, min_size=1, max_size=4), max_leaves=12)


@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_unflatten_is_the_inverse_of_flatten(tree):
    assert unflatten(flatten(tree)) == tree


@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_flatten_has_one_name_for_each_leaf(tree):
    def leaves(node):
        return sum(map(leaves, node.values())) if isinstance(node, dict) else 1

    assert len(flatten(tree)) == leaves(tree)


def test_flatten_joins_keys_with_slashes():
    tree = {"stem": {"conv": {"kernel": 1}}, "head": {"bias": 2}}
    assert flatten(tree) == {"head/bias": 2, "stem/conv/kernel": 1}


def test_flatten_takes_lists_and_arrays():
    flat = flatten({"a": [np.zeros(2), np.ones(3)]})
    assert {name: leaf.shape for name, leaf in flat.items()} == {"a/0": (2,), "a/1": (3,)}


@pytest.mark.parametrize(
    ("name", "layer"), [("stage1/block2/conv1/kernel", "stage1/block2/conv1"), ("head/bias", "head"), ("bias", "bias")]
)
def test_layer_of(name, layer):
    assert layer_of(name) == layer


def test_the_first_match_wins():
    rules = [Rule("head/bias", 3), Rule("head/.*", 2), Rule(".*", 1)]
    matches = match_rules(rules, NAMES)
    assert list(matches) == NAMES
    assert [match.value for match in matches.values()] == [1, 1, 1, 2, 3]
    assert matches["head/bias"] == Match(3, "head/bias")
    assert matches["head/kernel"].pattern == "head/.*"


def test_order_decides_between_overlapping_rules():
    rules = [Rule("head/.*", 2), Rule("head/bias", 3, optional=True), Rule(".*", 1)]
    assert match_rules(rules, NAMES)["head/bias"] == Match(2, "head/.*")


def test_a_rule_matches_whole_names_only():
    with pytest.raises(UserError, match="no rule matches head/bias"):
        match_rules([Rule("head/b", 1, optional=True)], ["head/bias"])


def test_a_leaf_without_rule_is_named():
    with pytest.raises(UserError) as error:
        match_rules([Rule("head/.*", 1)], NAMES, "layer rate")
    assert "no layer rate matches stem/conv/kernel, stage1/block1/conv1/kernel, stage1/block1/bn1/scale." in str(
        error.value
    )
    assert "head/bias" not in str(error.value)


def test_many_leaves_without_rule_are_counted():
    with pytest.raises(UserError, match="no rule matches a0, a1, a2 and 7 more"):
        match_rules([], [f"a{i}" for i in range(10)])


def test_a_rule_without_a_match_is_named():
    with pytest.raises(UserError) as error:
        match_rules([Rule("haed/.*", 1), Rule(".*", 2)], NAMES)
    assert str(error.value) == "rule 'haed/.*' matches no parameter (did you mean 'head/.*'?)."


def test_a_shadowed_rule_is_named():
    with pytest.raises(
        UserError, match="rule 'head/bias' has no effect, because earlier rules match all its parameters"
    ):
        match_rules([Rule(".*", 1), Rule("head/bias", 2)], NAMES)


def test_several_problems_are_one_sentence():
    with pytest.raises(UserError) as error:
        match_rules([Rule("head/.*", 1), Rule("head/bias", 2), Rule("tail/.*", 3)], NAMES)
    message = str(error.value)
    assert (
        message.index("no rule matches stem") < message.index("'head/bias' has no effect") < message.index("'tail/.*'")
    )
    assert message.endswith(".") and "\n" not in message


def test_many_problems_are_counted():
    with pytest.raises(UserError, match=r"'a1' matches no parameter; rule 'a2' [^;]*; and 2 more problems\.$"):
        match_rules([Rule(f"a{i}", 1) for i in range(5)] + [Rule(".*", 2)], NAMES)


@pytest.mark.parametrize("pattern", ["nothing/.*", "head/.*"])
def test_an_optional_rule_may_have_no_effect(pattern):
    matches = match_rules([Rule(".*", 1), Rule(pattern, 2, optional=True)], NAMES)
    assert {match.value for match in matches.values()} == {1}


@pytest.mark.parametrize("pattern", ["head/(", "*", "stage[1"])
def test_a_bad_regular_expression_is_named(pattern):
    with pytest.raises(UserError) as error:
        match_rules([Rule(pattern, 1)], NAMES, "layer rate")
    assert str(error.value).startswith(
        f"layer rate {pattern!r} is not a regular expression of RE2, which has no lookahead: "
    )


@pytest.mark.parametrize(("pattern", "hint"), [("head", "head/.*"), ("stage1/block1/", "stage1/block1/.*")])
def test_the_error_for_a_rule_with_a_layer_name_suggests_a_pattern(pattern, hint):
    with pytest.raises(UserError) as error:
        match_rules([Rule(pattern, 1), Rule(".*", 2)], NAMES)
    assert f"(rules match whole names: did you mean {hint!r}?)" in str(error.value)


@given(st.lists(st.sampled_from([*NAMES, "head/.*", "stage1/.*", ".*/kernel"]), max_size=5))
def test_each_name_gets_the_first_rule_that_matches(patterns):
    import re

    rules = [Rule(pattern, i, optional=True) for i, pattern in enumerate([*patterns, ".*"])]
    for name, match in match_rules(rules, NAMES).items():
        assert re.fullmatch(rules[match.value].pattern, name)
        assert not any(re.fullmatch(rule.pattern, name) for rule in rules[: match.value])


def test_format_matches_is_a_table():
    matches = {"stem/conv/kernel": Match(0.1, ".*"), "head/bias": Match("frozen", "head/.*")}
    table = format_matches(matches, {"stem/conv/kernel": 1432, "head/bias": 10}, "learning rate")
    assert table.split("\n") == [
        "parameter         values  learning rate  rule",
        "stem/conv/kernel   1,432  0.1            .*",
        "head/bias             10  frozen         head/.*",
    ]
