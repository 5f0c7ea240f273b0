"""Units before and after training, from a stream of batches."""

import numpy as np
import pytest

from jaxft.analysis.unit_changes import mean_of_known, unit_changes

RNG = np.random.default_rng(0)
LABELS = np.arange(20) % 3


def draw():
    return {"a": RNG.normal(size=(20, 4, 4, 5)).astype(np.float32), "b": RNG.normal(size=(20, 3)).astype(np.float32)}


def streamed(before, after, size):
    rows = [slice(i, i + size) for i in range(0, 20, size)]
    return unit_changes(
        (({t: x[r] for t, x in before.items()}, {t: x[r] for t, x in after.items()}, LABELS[r]) for r in rows), 3
    )


def test_a_stream_has_the_changes_of_all_images_at_once():
    before, after = draw(), draw()
    whole, parts = streamed(before, after, 20), streamed(before, after, 7)
    assert list(whole) == ["a", "b"]
    for tap, changes in whole.items():
        assert set(changes.measures) == set(parts[tap].measures) and len(changes.measures) == 10
        for measure, values in changes.measures.items():
            np.testing.assert_allclose(parts[tap].measures[measure], values, rtol=1e-9)


def test_measures_by_hand():
    before = {"a": np.zeros((4, 2), np.float32)}
    after = {"a": np.array([[3, -1], [1, -1], [0, -1], [0, -1]], np.float32)}
    measures = unit_changes([(before, after, np.array([0, 0, 1, 1]))], 2, num_top=2)["a"].measures
    assert measures["dead_units_before"].tolist() == [1, 1] and measures["dead_units"].tolist() == [0, 1]
    assert measures["selectivity"][0] == 1 and np.isnan(measures["selectivity"][1])
    assert measures["sparsity"][0] == pytest.approx((1 - (4 / 4) ** 2 / (10 / 4)) / (1 - 1 / 4))
    assert measures["label_entropy"][0] == 0 and measures["top_jaccard"][0] == 0
    assert np.isnan(measures["top_jaccard"][1]) and np.isnan(measures["correlation"]).all()
    assert mean_of_known(measures["selectivity"]) == 1 and np.isnan(mean_of_known(measures["correlation"]))


def test_unchanged_units():
    before = draw()
    for changes in streamed(before, before, 7).values():
        np.testing.assert_allclose(changes.measures["correlation"], 1)
        assert (changes.measures["top_jaccard"] == 1).all()


def test_no_batches():
    with pytest.raises(ValueError, match="there are no batches"):
        unit_changes([], 3)
