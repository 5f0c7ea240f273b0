"""The report names intervals, tests and random streams, and has a table of effects."""

import re

import pytest
from helpers import write_study

from jaxft.report import write_report
from jaxft.report.context import ReportContext
from jaxft.report.methods import interval_text, paired_test_text, streams_text
from jaxft.report.sections.anova import make_anova
from jaxft.store.records import Store

START, RATE = "training.initialization.start", "training.layers.backbone_learning_rate"
INTERVALS = "95 % Student t intervals over 3 seeds (random streams that differ between seeds: split, init)"
ACCURACY = {
    (start, rate): [0.5 + 0.1 * i + 0.1 * j, 0.52 + 0.1 * i, 0.51 + 0.05 * j]
    for i, start in enumerate(("pretrained", "random"))
    for j, rate in enumerate((0.1, 1.0))
}


def section(path, name):
    """Returns the visible text of a section of the page; None if the page lacks it."""
    found = re.search(rf'<section id="{name}">.*?</section>', path.read_text(), re.DOTALL)
    return found and " ".join(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", found[0], flags=re.DOTALL).split())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns the path of the report of a study with two factors, one of which is selected on validation."""
    folder = tmp_path_factory.mktemp("report")
    write_study(folder, (START, RATE), ACCURACY, select_over=(RATE,))
    return write_report(folder)


@pytest.mark.parametrize("name", ["arms", "settings", "factors", "curves"])
def test_captions_name_the_interval_and_the_streams(written, name):
    assert INTERVALS in section(written, name)


def test_differences_of_arms_name_the_test(written):
    assert "p: two-sided paired t test over seeds (every pair of arms)" in section(written, "arms")


def test_a_study_of_two_factors_has_a_table_of_effects(written):
    text = section(written, "anova")
    assert "effect df F p η² partial η² ω² seed (block) 2" in text
    assert "initialization × backbone learning rate 1" in text
    assert "Analysis of variance (type II) of test_accuracy over 12 trials" in text


def test_without_statsmodels_there_is_no_table_of_effects(written, monkeypatch):
    monkeypatch.setattr("jaxft.report.sections.anova.has_statsmodels", lambda: False)
    assert make_anova(ReportContext.of(Store.open(written.parent))) is None


def test_a_study_of_one_factor_has_no_table_of_effects(tmp_path):
    store = write_study(tmp_path, (RATE,), {(0.1,): [0.5, 0.6], (1.0,): [0.6, 0.8]})
    assert make_anova(ReportContext.of(store)) is None


def test_a_study_that_cannot_be_analyzed_says_why(tmp_path):
    write_study(tmp_path, (START, RATE), {levels: values[:1] for levels, values in ACCURACY.items()})
    path = write_report(tmp_path)
    assert "There is no analysis of variance: an analysis of variance needs at least two seeds" in section(
        path, "anova"
    )
    assert "no interval (1 seed)" in section(path, "settings")


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([3, 5], "95 % Student t intervals over 3 to 5 seeds (no random stream differs between seeds)"),
        ([1, 0], "no interval (1 seed)"),
        ([], "no interval (no seeds)"),
    ],
)
def test_the_description_of_intervals(counts, text):
    assert interval_text({}, iter(counts)) == text


def test_the_descriptions_of_streams_and_tests():
    assert streams_text({"varied": ["fold"]}) == "random streams that differ between seeds: fold"
    assert paired_test_text(1) == "two-sided paired t test over seeds"
    assert paired_test_text(8) == "two-sided paired t test over seeds, Holm-corrected over 8 comparisons"
