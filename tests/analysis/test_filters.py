"""Filters that changed, by hand."""

import numpy as np
import pytest

from jaxft.analysis.filters import fraction_changed, most_changed
from jaxft.analysis.parameters import filter_changes

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_filters_that_changed_by_hand():
    # Filters of norm 5 change by 0, 1 and 10: relative changes of 0, 0.2 and 2; the last filter is zero before.
    before = {"kernel": np.array([[3, 3, 3, 0], [4, 4, 4, 0]], np.float32)}
    after = {"kernel": np.array([[[3, 4, 13, 0], [4, 4, 4, 1]], [[3, 3, 3, 0], [4, 4, 4, 0]]], np.float32)}
    by_leaf = filter_changes(before, after)
    assert fraction_changed(by_leaf, 0.3)["kernel"].tolist() == [0.5, 0]
    assert fraction_changed(by_leaf, 0.1)["kernel"].tolist() == [0.75, 0]
    table = most_changed(by_leaf, 2)
    assert table.query("run == 0")[["leaf", "filter", "value"]].values.tolist() == [
        ["kernel", 3, np.inf],
        ["kernel", 2, 2],
    ]
    assert most_changed({}, 2).empty
    with pytest.raises(ValueError, match="at least 1"):
        most_changed(by_leaf, 0)
    with pytest.raises(ValueError, match="no measure 'l3'"):
        most_changed(by_leaf, 1, "l3")
