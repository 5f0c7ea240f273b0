"""Linear probes of taps, against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxft.analysis.layer_probes import layer_probes

RNG = np.random.default_rng(0)
CENTERS = RNG.normal(size=(3, 6))


def draw(n):
    """Returns activations of two taps: 'noise', and 'signal' with a center per class; and labels."""
    labels = RNG.integers(0, 3, n)
    signal = CENTERS[labels][:, None, None] + 2 * RNG.normal(size=(n, 2, 2, 6))
    return {"noise": RNG.normal(size=(n, 4)), "signal": signal}, labels


def in_batches(activations, labels, size=30):
    for i in range(0, len(labels), size):
        yield {tap: values[i : i + size] for tap, values in activations.items()}, labels[i : i + size]


TRAIN, VAL, TEST = draw(120), draw(60), draw(300)


def test_probes_are_those_of_scikit_learn():
    penalties = (1e-3, 1e-1)
    found = layer_probes(*(in_batches(*subset) for subset in (TRAIN, VAL, TEST)), 3, penalties)
    assert list(found) == ["noise", "signal"]
    for tap, accuracy in found.items():
        pooled = [s[0][tap].mean((1, 2)) if s[0][tap].ndim == 4 else s[0][tap] for s in (TRAIN, VAL, TEST)]
        mean, std = pooled[0].mean(0), pooled[0].std(0)
        x, x_val, x_test = ((side - mean) / std for side in pooled)
        models = [LogisticRegression(C=1 / (p * 120), tol=1e-8, max_iter=1000).fit(x, TRAIN[1]) for p in (1e-1, 1e-3)]
        best = max(models, key=lambda model: model.score(x_val, VAL[1]))
        assert accuracy == pytest.approx(best.score(x_test, TEST[1]), abs=0.007)
    assert found["signal"] > 0.75 > 0.45 > found["noise"]


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        ([], "no batches"),
        ([({"a": np.full((3, 2), np.nan)}, np.array([0, 1, 2]))], "'a' are not finite"),
        ([({"a": np.ones((3, 2))}, np.array([0, 1, 3]))], "label"),
        ([({"a": np.ones((3, 2))}, np.array([0, 1, -1]))], "no label"),
    ],
)
def test_bad_input_is_one_sentence(train, reason):
    good = [({"a": RNG.normal(size=(3, 2))}, np.array([0, 1, 2]))]
    with pytest.raises(ValueError, match=reason):
        layer_probes(train, good, good, 3)
