"""What a person is told of learning rates: the table before training, the column of results, the range test."""

import math

import pytest

from jaxft import cli
from jaxft.config import Study, from_dict
from jaxft.recipes.range_test import judge
from jaxft.recipes.rate_tables import MAX_LINES, first_lines, rate_tables
from jaxft.recipes.study import run_study
from jaxft.study.plan import make_plan

TARGET = {"data": "digits", "classes": ["2", "3", "4"], "train_per_class": 6, "val_per_class": 4}
RANDOM = {"initialization.start": "random", "batches.size": 9, "schedule.epochs": 2.0}


def tables(factors, **training):
    study = {"seeds": 1, "target": TARGET, "training": RANDOM | training, "factors": factors}
    return rate_tables(make_plan(from_dict(Study, study)).trials)


def test_rules_are_told_once_with_what_they_come_to():
    """The stem has 16 * 27 + 32 numbers, the stages 2 * 2304 + 64, 4608 + 9216 + 128 and 18432 + 36864 + 256."""
    (table,) = tables(
        [{"training.optimizer.learning_rate": [0.1, 0.2]}],
        **{
            "layers.rates": (("stem/.*", "frozen"), ("stage1/.*", 0.1)),
            "layers.backbone_learning_rate": 0.05,
            "layers.decay": 0.5,
        },
    )
    rows = [line.split() for line in table.splitlines()]
    assert rows[0] == ["rule", "learning", "rate", "leaves", "parameters"]
    assert rows[1] == ["stem/.*", "frozen", "3", "464"]
    # Three units below the head: 0.1 * 0.1 / 8, then of the other trial.
    assert rows[2] == ["stage1/.*", "0.00125,", "0.0025", "6", "4,672"]
    assert rows[3] == [".*", "0.0125", "to", "0.025", "12", "69,504"]  # the body's is its own, whatever the head's
    assert rows[4] == ["head/.*", "0.1,", "0.2", "2", "195"]
    assert table.splitlines()[5] == (
        "cifar_resnet8: 74,371 of 74,835 parameters are trainable; "
        "effective learning rate of the head at the peak: 1, 2"
    )


def test_every_set_of_rules_has_a_table_and_says_when_it_joins():
    found = tables(
        [{"training.layers.backbone_learning_rate": ["frozen", 0.01]}, {"training.layers.unfreeze_epochs": [(1.0,)]}]
    )
    assert len(found) == 3
    assert "frozen" in found[0] and "from step" not in found[1]
    assert [line.split()[-3:] for line in found[2].splitlines()[1:3]] == [["from", "step", "2"], ["0.01", "2", "195"]]


def test_a_run_prints_the_first_lines_of_many_tables():
    assert first_lines(["a\nb", "c"]) == ["a", "b", "", "c", ""]
    *lines, empty = first_lines(["rule\ntotal"] * 10)  # 10 tables of 2 lines and 9 lines between them
    assert len(lines) == MAX_LINES + 1 and lines[-1].startswith("... 17 more lines; ") and not empty


def test_a_head_that_is_fitted_has_no_rate():
    fields = {
        "linear_probe.epochs": 5.0,
        "linear_probe.optimizer": "lbfgs",
        "schedule.epochs": 0.0,
        "layers.backbone_learning_rate": "frozen",
    }
    (table,) = tables([], **fields)
    assert "none, by L-BFGS" in table and "effective" not in table


@pytest.mark.slow
def test_results_show_the_effective_rate_where_it_varies(tmp_path, capsys):
    study = {
        "seeds": 1,
        "target": TARGET,
        "training": RANDOM | {"optimizer.learning_rate": 0.05, "layers.backbone_learning_rate": "frozen"},
        "factors": [{"training.optimizer.momentum": [0.0, 0.5]}],
    }
    run_study(study, tmp_path / "work")
    printed = capsys.readouterr().err.splitlines()
    assert [line.split()[:3] for line in printed[1:3]] == [["rule", "learning", "rate"], [".*", "frozen", "21"]]
    assert cli.main(["results", str(tmp_path / "work")]) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert ["0", "0.05"] in [line[:2] for line in lines] and ["0.5", "0.1"] in [line[:2] for line in lines]
    assert "effective rate: learning rate of the head at the peak" in said


# --- the range test ---------------------------------------------------------------------------------------------


def test_a_tenth_of_the_rate_with_the_least_loss_is_suggested():
    """The loss falls by decades until 0.1, then grows beyond all bounds."""
    rates = [10 ** (-6 + step / 10) for step in range(71)]
    losses = [2 - 1.8 / (1 + (0.003 / rate) ** 2) + 1.5 * max(0.0, math.log10(rate / 0.1)) for rate in rates]
    found = judge(rates, losses)
    assert 0.1 <= 10 * found.suggested <= 0.6  # smoothing is late by some steps
    assert 0.003 <= found.steepest <= 0.1
    assert len(found.rates) == len(found.smoothed) == 71
    assert judge(rates, [losses[0] + 1, *losses[1:]]).steepest == found.steepest  # one batch is noise
    diverged = judge(rates, [*losses[:60], math.nan, *losses[61:]])
    assert len(diverged.rates) == 60 and diverged.suggested == found.suggested
    with pytest.raises(FloatingPointError, match="diverges within three steps"):
        judge(rates, [1.0, math.inf] + [1.0] * 69)
