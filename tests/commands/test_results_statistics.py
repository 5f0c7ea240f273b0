"""`jaxft results --anova` and `--power`: numbers worked out by hand, and one sentence for each mistake."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from helpers import write_study

from jaxft.analysis.statistics import anova, detectable_effect, log_odds
from jaxft.cli import main

START, RATE = "training.initialization.start", "training.layers.backbone_learning_rate"
# The deviations of the seeds are orthogonal to each other and to the mean.
ACCURACY = {
    ("pretrained", 0.1): [0.81, 0.79, 0.80],
    ("pretrained", 1.0): [0.91, 0.91, 0.88],
    ("random", 0.1): [0.61, 0.59, 0.60],
    ("random", 1.0): [0.62, 0.58, 0.60],
}
CONSTANT = {levels: [0.5, 0.5] for levels in ACCURACY}
UNFINISHED = {levels: ["failed", None] for levels in ACCURACY}


@pytest.fixture
def results(tmp_path, capsys):
    """Returns a function that returns the exit code, the output and the errors of `jaxft results` for accuracies."""

    def run(*words, accuracy=ACCURACY, factors=(START, RATE), **options):
        workdir = tmp_path / "study"
        if not workdir.exists():
            write_study(workdir, factors, accuracy, **options)
        code = main(["results", str(workdir), *words])
        return code, *capsys.readouterr()

    return run


def words_of(output):
    return " ".join(output.split())


def test_anova_by_hand(results):
    code, output, _ = results("--anova")
    assert code == 0
    # Means 0.85 and 0.60 of the starts, 0.70 and 0.75 of the rates, grand mean 0.725. Sums of squares, times 10,000:
    # start 12 * 12.5^2 = 1875, rate 12 * 2.5^2 = 75, interaction 75. Means of the seeds 0.7375, 0.7175 and 0.72:
    # 4 (1.25^2 + 0.75^2 + 0.5^2) = 9.5. Within the settings 2 + 6 + 2 + 8 = 18, so the residual is 8.5. Total 2043.
    rows = {line.split("  ")[0].strip(): line.split() for line in output.splitlines() if line.strip()}
    assert rows["seed (block)"][2:] == ["2", "3.35", "0.11", "0.005", "0.528", "0.003"]
    assert rows["initialization"][1:] == ["1", "1.32e+03", "<", "0.001", "0.918", "0.995", "0.916"]
    assert rows["backbone learning rate"][3:5] == ["1", "52.9"] and rows["backbone learning rate"][-2] == "0.898"
    assert rows["initialization × backbone learning rate"][5:7] == ["1", "52.9"]
    assert rows["residual"][1:] == ["6", "–", "–", "0.004", "–", "–"]
    text = words_of(output)
    assert "Analysis of variance (type II) of test_accuracy over 12 trials: 4 combinations of levels, 3 seeds" in text
    assert "with the seed as a block (random streams that differ between seeds: split, init)" in text
    # SD of the seeds: sqrt((9.5 / 2 - 8.5 / 6) / 4) = 0.91; of the residual: sqrt(8.5 / 6) = 1.19.
    assert "between seeds 0.9 percentage points, residual 1.2 percentage points" in text
    assert "standard deviations from 1.0 percentage points to 2.0 percentage points" in text
    assert "have no result" not in text


def test_anova_as_csv_has_all_digits(results):
    code, output, _ = results("--anova", "--csv")
    table = pd.read_csv(io.StringIO(output), index_col="effect")
    assert code == 0
    np.testing.assert_allclose(1e4 * table["sum_sq"], [9.5, 1875, 75, 75, 8.5], rtol=1e-9)
    assert list(table.columns) == ["df", "sum_sq", "F", "p", "eta_sq", "partial_eta_sq", "omega_sq"]


def test_anova_of_log_odds_uses_the_number_of_images(results):
    code, output, _ = results("--anova", "--log-odds", "--csv")
    rows = [(*levels, seed, a) for levels, values in ACCURACY.items() for seed, a in enumerate(values)]
    table = pd.DataFrame(rows, columns=["start", "rate", "seed", "y"])
    expected = anova(table.assign(y=log_odds(table["y"], 400)), "y", ["start", "rate"], block="seed")
    assert code == 0
    np.testing.assert_allclose(pd.read_csv(io.StringIO(output)).iloc[:, 1:], expected, rtol=1e-9)
    assert "log-odds of test_accuracy" in results("--anova", "--log-odds")[1]


def test_trials_that_diverged_or_failed_are_left_out(results):
    accuracy = ACCURACY | {("random", 1.0): [0.62, None, "failed"]}
    code, output, _ = results("--anova", accuracy=accuracy)
    assert code == 0 and "over 10 trials" in output
    assert "2 trials that failed, diverged or lack the metric: left out." in output
    assert "2 of 12 combinations of levels and seeds have no result, so effects overlap" in output


def test_anova_over_the_selected_trials(results):
    code, output, _ = results("--anova", "--selected", select_over=(RATE,))
    assert code == 0 and "over 6 trials: 2 combinations of levels" in output
    assert "initialization" in output and "learning rate" not in output


def test_power_by_hand(results):
    code, output, _ = results("--power", "--difference", "2")
    assert code == 0
    lines = {line.split("  ")[0]: line.split() for line in map(str.strip, output.splitlines())}
    # Differences of the starts at the rate 1: 29, 33 and 28 points: mean 30, SD 2.6458.
    row = lines["random · 1 − pretrained · 1"]
    assert row[7:11] == ["3", "−30.0", "±", "6.6"] and row[11] == "2.6"
    assert row[12] == f"{2.645751 * detectable_effect(3):.1f}"
    # At the rate 0.1 the difference is 20 points in each seed, so the power is undefined.
    assert lines["random · 0.1 − pretrained · 0.1"][-3:] == ["0.0", "–", "–"]
    assert "pretrained · 1 − pretrained · 0.1" in lines and "random · 1 − random · 0.1" in lines
    assert sum(" − " in name for name in lines) == 4
    text = words_of(output)
    assert "95 % Student t interval, in percentage points" in text
    assert "two-sided paired t test over seeds at level 0.05, not corrected for several comparisons" in text
    assert "its 95 % chi-square interval is 0.52 to 6.3 times" in text
    assert "random streams that differ between seeds: split, init" in text


def test_power_as_csv(results):
    code, output, _ = results("--power", "--csv")
    table = pd.read_csv(io.StringIO(output)).set_index(["first", "second"])
    assert code == 0
    row = table.loc[("random · 1", "pretrained · 1")]
    assert row["sd"] == pytest.approx(math.sqrt(7)) and row["difference"] == pytest.approx(-30)
    needed = row[["seeds_for_0.5", "seeds_for_1", "seeds_for_2"]].to_list()
    for difference, num_seeds in zip((0.5, 1, 2), map(int, needed)):
        effect = difference / math.sqrt(7)
        assert detectable_effect(num_seeds) <= effect < detectable_effect(num_seeds - 1)
    assert table.loc[("random · 0.1", "pretrained · 0.1"), ["detectable", "seeds_for_1"]].isna().all()


def test_power_between_arms(results):
    code, output, _ = results("--power", "--selected", select_over=(RATE,))
    assert code == 0 and "random − pretrained" not in output and "pretrained − random" in output


def test_words_are_compared_with_the_first_and_numbers_with_their_neighbors(results):
    accuracy = {(level,): [0.5, 0.6 + i / 10] for i, level in enumerate((0.1, "frozen", 0.01))}
    _, output, _ = results("--power", "--csv", accuracy=accuracy, factors=(RATE,))
    pairs = pd.read_csv(io.StringIO(output), dtype=str)[["first", "second"]].to_numpy().tolist()
    assert pairs == [["0.01", "frozen"], ["0.1", "0.01"]]


@pytest.mark.parametrize(
    ("words", "accuracy", "message"),
    [
        (["--anova"], {key: values[:1] for key, values in ACCURACY.items()}, "at least two seeds; the finished trials"),
        (["--power"], {key: values[:1] for key, values in ACCURACY.items()}, "two seeds that finished in both"),
        (["--anova"], {("pretrained", 0.1): [0.5, 0.6]}, "a factor with at least two levels; this study has none"),
        (["--power"], {("pretrained", 0.1): [0.5, 0.6]}, "differ in one factor; this study has no such pair"),
        (["--anova"], CONSTANT, "'test_accuracy' is 0.5 in all 8 rows, so it has no var"),
        (["--anova"], UNFINISHED, "no finished trial of this study has a value of 'tes"),
        (["--power"], UNFINISHED, "no finished trial of this study has a value of 'tes"),
        (["--anova", "--metric", "test_acuracy"], ACCURACY, "(did you mean 'test_accuracy'?)"),
        (["--anova", "--metric", "executor"], ACCURACY, "no column of numbers 'executor'"),
        (["--anova", "--log-odds", "--metric", "relative_change"], ACCURACY, "log-odds need 'test_accuracy' or 'val_"),
        (["--power", "--difference", "-1"], ACCURACY, "--difference must be a positive number, not -1"),
        (["--power", "--difference", "nan"], ACCURACY, "--difference must be a positive number, not nan"),
        (["--anova", "--power"], ACCURACY, "choose one of them"),
        (["--difference", "1"], ACCURACY, "--difference is an option of --power"),
        (["--log-odds"], ACCURACY, "--log-odds is an option of --anova"),
        (["--anova", "--selected"], ACCURACY, "selects no factor on validation"),
    ],
)
def test_a_mistake_is_one_sentence(results, words, accuracy, message):
    code, output, errors = results(*words, accuracy=accuracy)
    assert (code, output) == (2, "")
    assert errors.startswith("jaxft: ") and message in errors and errors.count("\n") == 1


@pytest.mark.parametrize("option", ["--anova", "--power"])
def test_without_statsmodels_the_message_names_the_extra(results, option, monkeypatch):
    detectable_effect.cache_clear()
    monkeypatch.setattr("jaxft.analysis.statistics.packages.has_statsmodels", lambda: False)
    code, _, errors = results(option)
    assert code == 2 and "needs statsmodels; `pip install 'jaxft[statistics]'` installs it." in errors


@pytest.mark.parametrize("words", [[], ["--layers"]])
def test_tables_name_the_interval_and_the_streams(results, words):
    _, output, _ = results(*words)
    assert "95 % Student t intervals over 3 seeds (random streams that differ between seeds: split, init)" in output


def test_arms_name_the_test(results):
    accuracy = {(start, rate): [0.5, 0.5 + i / 10] for i, start in enumerate("abc") for rate in (0.1, 1.0)}
    _, output, _ = results("--selected", accuracy=accuracy, select_over=(RATE,))
    assert "p: two-sided paired t test over seeds, Holm-corrected over 3 comparisons." in output
