"""Metrics of predictions, by hand, and one that a plug-in registers."""

import math

import numpy as np
import pytest

from jaxft.core.metrics import METRICS, Metric, compute_metrics, field_names, record_fields

# Class 0: 3 of 4 right, class 2: none of 1; class 1 has no images.
LABELS, PREDICTIONS = np.array([0, 0, 0, 0, 2]), np.array([0, 0, 0, 1, 1])


@pytest.fixture
def errors():
    """A metric that counts wrong predictions."""
    METRICS.register("errors", Metric(lambda labels, predictions: (labels != predictions).sum(), "errors", "", False))
    yield METRICS["errors"].value
    del METRICS.entries["errors"]


def test_accuracy_and_the_mean_over_classes_by_hand():
    assert compute_metrics(LABELS, PREDICTIONS) == {"accuracy": 0.6, "mean_per_class": 0.375}


def test_without_images_every_metric_is_nan(errors):
    found = compute_metrics(LABELS[:0], PREDICTIONS[:0])
    assert list(found) == ["accuracy", "mean_per_class", "errors"] and all(map(math.isnan, found.values()))


def test_a_registered_metric_comes_after_the_built_in_ones(errors):
    assert compute_metrics(LABELS, PREDICTIONS)["errors"] == 2.0
    assert field_names()[-2:] == ("val_errors", "test_errors")


def test_fields_of_a_record_are_none_instead_of_nan():
    found = record_fields(None, {"accuracy": 0.6, "mean_per_class": math.nan})
    assert found == {
        "val_accuracy": None,
        "test_accuracy": 0.6,
        "val_mean_per_class": None,
        "test_mean_per_class": None,
    }
    assert tuple(found) == field_names()


def test_a_share_is_shown_in_percent_and_a_number_with_three_digits(errors):
    share = METRICS["mean_per_class"].value
    assert share.describe(0.375) == ("mean over the classes", "37.5 %") and share.describe(0.375, "")[1] == "37.5%"
    assert share.format_interval((0.375, 0.04, 3)) == "37.5 ± 4.0"
    assert errors.describe(2.0) == ("errors", "2")
    assert errors.format_interval((2.5, 0.25, 3)) == "2.5 ± 0.25"
    assert errors.format_interval((2.5, math.nan, 1)) == "2.5"


def test_every_metric_has_help():
    assert all(entry.help for entry in METRICS.values())
