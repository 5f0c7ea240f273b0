"""Agreement of predictions and calibration, on examples worked out by hand."""

import numpy as np
import pytest

from jaxft.analysis.predictions import agreement, calibration_error

LABELS = np.array([0, 0, 1, 1, 2, -1])
FIRST = np.array([0, 0, 1, 0, 1, 2])  # right, right, right, wrong, wrong, no label
SECOND = np.array([0, 1, 1, 1, 0, 2])  # right, wrong, right, right, wrong, no label


def test_agreement_of_six_images():
    found = agreement(FIRST, SECOND, LABELS)
    assert found.same == pytest.approx(3 / 6)
    assert found.to_right == pytest.approx(1 / 5) and found.to_wrong == pytest.approx(1 / 5)
    assert found.error_overlap == pytest.approx(1 / 3)  # images 1, 3, 4 are wrong for one, image 4 for both
    # accuracies 3/5 and 3/5: expected (9 + 4) / 25; observed: images 0, 2, 4 of 5
    assert found.error_consistency == pytest.approx((3 / 5 - 13 / 25) / (1 - 13 / 25))


def test_a_network_agrees_with_itself():
    assert agreement(FIRST, FIRST, LABELS) == pytest.approx((1, 0, 0, 1, 1))


def test_without_labels_only_the_agreement_is_known():
    found = agreement(FIRST, SECOND, np.full(6, -1))
    assert found.same == 0.5 and np.isnan(found[1:]).all()


def test_two_perfect_networks_have_no_errors_to_compare():
    found = agreement(LABELS[:5], LABELS[:5], LABELS[:5])
    assert found[:3] == (1, 0, 0) and np.isnan(found[3:]).all()


def test_arrays_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shapes \[6\], \[5\] and \[6\]"):
        agreement(FIRST, SECOND[:5], LABELS)


def test_calibration_error_of_two_bins():
    # bin (0, 0.5]: confidence 0.5 and 0.3, one right: |1/2 - 0.4|; bin (0.5, 1]: 0.9 and 0.7, both right: |1 - 0.8|
    found = calibration_error([0.5, 0.3, 0.9, 0.7], [True, False, True, True], num_bins=2)
    assert found == pytest.approx((2 * 0.1 + 2 * 0.2) / 4)


def test_a_calibrated_network_has_no_calibration_error():
    confidences = np.repeat([0.25, 0.75], 4)
    is_right = [True, False, False, False, True, True, True, False]
    assert calibration_error(confidences, is_right) == pytest.approx(0, abs=1e-12)
    assert np.isnan(calibration_error([], []))


@pytest.mark.parametrize(
    ("confidences", "is_right", "num_bins", "message"),
    [
        ([1.5], [True], 15, r"not in \[0, 1\]"),
        ([float("nan")], [True], 15, r"not in \[0, 1\]"),
        ([0.5], [True, False], 15, "shapes"),
        ([0.5], [True], 0, "0 bins"),
    ],
)
def test_bad_input_is_one_sentence(confidences, is_right, num_bins, message):
    with pytest.raises(ValueError, match=message):
        calibration_error(confidences, is_right, num_bins)
