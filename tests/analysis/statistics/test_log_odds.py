"""Log-odds against numbers worked out by hand."""

import math

import numpy as np
import pytest

from jaxft.analysis.statistics import log_odds
from jaxft.core.errors import UserError


def test_log_odds_by_hand():
    np.testing.assert_allclose(log_odds([0.5, 0.9, 0.2]), [0, math.log(9), -math.log(4)], rtol=1e-15)
    np.testing.assert_array_equal(log_odds([0.0, 1.0]), [-np.inf, np.inf])
    # 30 of 40 images: log(30.5 / 10.5); 0 and 40 of 40: -log(81) and log(81).
    np.testing.assert_allclose(
        log_odds([0.75, 0.0, 1.0], 40), [math.log(30.5 / 10.5), -math.log(81), math.log(81)], rtol=1e-14
    )


def test_the_correction_keeps_order_and_symmetry_and_vanishes_for_many_images():
    accuracy = np.linspace(0, 1, 21)
    corrected = log_odds(accuracy, np.full(21, 100))
    assert (np.diff(corrected) > 0).all()
    np.testing.assert_allclose(corrected, -corrected[::-1], atol=1e-12)
    np.testing.assert_allclose(log_odds(accuracy[1:-1], 1e12), log_odds(accuracy[1:-1]), atol=1e-10)


def test_log_odds_of_missing_or_impossible_accuracies():
    assert np.isnan(log_odds([math.nan, 0.5], 10)).tolist() == [True, False]
    with pytest.raises(UserError, match=r"accuracies in \[0, 1\], not 0.5 to 60"):
        log_odds([0.5, math.nan, 60.0])
    with pytest.raises(UserError, match="positive number of images"):
        log_odds(0.5, 0)
