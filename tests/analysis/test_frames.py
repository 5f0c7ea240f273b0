"""Results as tables."""

import numpy as np

from jaxft.analysis.frames import change_frame, pair_frame
from jaxft.analysis.parameters import changes

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_tables_have_one_value_in_a_row():
    before = {"conv": {"kernel": normal(2, 3)}}
    after = {"conv": {"kernel": normal(2, 2, 3)}}
    by_level = changes(before, after)
    table = change_frame(by_level)
    assert list(table.columns) == ["run", "level", "name", "measure", "value", "index"]
    row = table.query("run == 1 and level == 'filter' and measure == 'rms' and index == 2")
    assert row["value"].item() == by_level["filter"]["conv/kernel"]["rms"][1, 2]
    layers = change_frame({"layer": by_level["layer"]})
    assert len(layers) == 2 * 6 and list(layers.columns) == ["run", "level", "name", "measure", "value"]
    one = change_frame(changes(before, before))
    assert set(one["run"]) == {0} and change_frame({}).empty
    matrix = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]])
    assert pair_frame({"conv": {"distance": matrix}})["value"].tolist() == [1, 2, 3] and pair_frame({}).empty
