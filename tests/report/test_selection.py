"""Arms at the levels selected on validation, and their paired differences, computed by hand."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from jaxft.cli import main
from jaxft.config import Study, from_dict, load_config, to_dict
from jaxft.report import page, selection
from jaxft.store.records import Store
from jaxft.study.plan import make_plan

INIT, RATE = "training.initialization.start", "training.layers.backbone_learning_rate"
A, B = "/far/away/net.birds.safetensors", "/far/away/net.cars.safetensors"
SETTINGS = [
    {"source.weights": weights, INIT: init, RATE: rate}
    for weights, init in ((A, "pretrained"), (B, "pretrained"), (None, "random"))
    for rate in (0.01, 0.1)
]
# By setting and seed: (validation, test, validation loss); None: the trial diverged.
OUTCOMES = [
    [(0.80, 0.70, 0.5), (0.60, 0.90, 0.5), (0.70, 0.74, 0.9)],
    [(0.70, 0.95, 0.4), (0.90, 0.72, 0.4), (0.70, 0.76, 0.8)],  # seed 2: equal accuracy, lower loss
    [(0.60, 0.66, 0.5), (0.60, 0.68, 0.5), (0.60, 0.64, 0.5)],
    [(0.60, 0.10, 0.5), (0.50, 0.99, 0.5), None],  # seed 0: equal accuracy and loss, so the first level
    [(0.40, 0.50, 0.5), (0.50, 0.52, 0.5), None],
    [(0.30, 0.90, 0.5), (0.40, 0.90, 0.5), None],  # seed 2: all diverged
]
SELECTED = {0: [0.70, 0.72, 0.76], 1: [0.66, 0.68, 0.64], 2: [0.50, 0.52]}


def build(workdir: Path, settings=SETTINGS, outcomes=OUTCOMES, select_over=(RATE,)) -> Store:
    """Returns the store of a study in which the trials of `outcomes` have run."""
    store = Store.create(workdir)
    factors = list(dict.fromkeys(name for levels in settings for name in levels))
    trials = [
        {"trial": f"{i:08x}{seed:08x}", "setting": i, "factors": levels, "seed": seed}
        for i, levels in enumerate(settings)
        for seed in range(3)
    ]
    store.write_plan(
        {
            "title": "Selected",
            "config_path": "configs/selected.py",
            "config": to_dict(Study()) | {"select_over": list(select_over)},
            "changed": {"select_over": list(select_over)},
            "factors": factors,
            "settings": settings,
            "layers": [],
            "chance": 0.25,
            "trials": trials,
        }
    )
    for trial in trials:
        if trial["setting"] < len(outcomes):
            write_trial(store, trial["trial"], outcomes[trial["setting"]][trial["seed"]])
    return store


def write_trial(store: Store, digest: str, outcome: tuple[float, float, float] | None) -> None:
    val, test, loss = outcome or (None, None, math.nan)
    record = {
        "status": "done" if outcome else "diverged",
        "val_accuracy": val,
        "test_accuracy": test,
        "selected_epoch": 2.0 if outcome else None,
        "relative_change": 0.5 if outcome else None,
        "seconds": 1.0,
        "executor": "sequential",
        "width": 1,
    }
    curve = np.array([0.0, loss, 0.1])  # only the selected epoch counts
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    store.write("trials", digest, record, {"epoch": np.array([1.0, 2.0, 3.0]), **dict.fromkeys(names, curve)})


def arms_in(store: Store) -> list[selection.Arm]:
    return selection.arms_of(store, store.plan(), store.results())


def test_each_seed_selects_separately_in_each_arm(tmp_path):
    arms = arms_in(build(tmp_path))
    assert [list(arm.test_by_seed.values()) for arm in arms] == list(SELECTED.values())
    assert [row[RATE] for row in arms[0].selected.values()] == [0.01, 0.1, 0.1]
    assert [row[RATE] for row in arms[1].selected.values()] == [0.01, 0.01, 0.01]
    assert [(arm.planned, len(arm.selected), arm.diverged) for arm in arms] == [(3, 3, 0), (3, 3, 0), (3, 2, 1)]
    # mean 0.726667, s = 0.0305505, n = 3, t(0.975, 2) = 4.302653
    assert arms[0].test.mean == pytest.approx(0.726667, abs=1e-6)
    assert arms[0].test.half_width == pytest.approx(4.302653 * 0.0305505 / math.sqrt(3), rel=1e-5)
    assert arms[0].val.mean == pytest.approx((0.80 + 0.90 + 0.70) / 3)


def test_arms_have_short_unique_labels(tmp_path):
    assert [arm.label for arm in arms_in(build(tmp_path))] == [
        "net.birds · pretrained",
        "net.cars · pretrained",
        "random",
    ]


def test_none_is_in_a_label_that_would_be_empty_or_not_unique(tmp_path):
    settings = [{"source.weights": weights, RATE: rate} for weights in (A, None) for rate in (0.01, 0.1)]
    assert [arm.label for arm in arms_in(build(tmp_path / "empty", settings, []))] == ["net.birds", "none"]
    settings = [
        {"a": a, "b": b, RATE: 0.1} for a, b in (("x", None), (None, "x"))
    ]  # without their none both would be x
    assert [arm.label for arm in arms_in(build(tmp_path / "taken", settings, []))] == ["x · none", "none · x"]


def test_ties_of_feature_classifiers_are_broken_by_validation_loss(tmp_path):
    """They have no epochs: the loss is that of the selected penalty."""
    store = Store.create(tmp_path)
    rows = []
    for name, losses in (("a" * 16, [0.3, 0.9]), ("b" * 16, [0.8, 0.2])):
        arrays = {
            "epoch": np.zeros(0),
            "val_loss": np.zeros(0),
            "val_accuracy_by_level": np.array([0.5, 0.75]),
            "val_loss_by_level": np.array(losses),
        }
        rows.append({"trial": name, "status": "done", "val_accuracy": 0.75, "selected_epoch": 0})
        store.write("trials", name, {"status": "done"}, arrays)
    assert [selection.val_loss(store, row) for row in rows] == [0.9, 0.2]
    assert selection.select(store, rows) is rows[1]


def test_contrasts_are_paired_by_seed(tmp_path):
    first, second, third = selection.contrasts_of(arms_in(build(tmp_path)))
    assert (first.first.number, first.second.number) == (0, 1)
    # 0.04, 0.04, 0.12: mean 0.2 / 3, s = 0.0461880, t = 2.5 with 2 degrees: p = 1 - 2.5 / sqrt(2.5^2 + 2).
    assert first.difference.interval.mean == pytest.approx(0.2 / 3)
    assert first.difference.interval.half_width == pytest.approx(4.302653 * 0.0461880 / math.sqrt(3), rel=1e-5)
    assert first.difference.p_value == pytest.approx(1 - 2.5 / math.sqrt(8.25))
    # Over the two seeds that both arms have: 0.20 and 0.20, 0.16 and 0.16; all but exactly equal.
    assert second.difference.interval.mean == pytest.approx(0.2) and second.difference.interval.num_values == 2
    assert third.difference.interval.mean == pytest.approx(0.16)
    # Holm: the two small ones come first, times 3 and 2, and the largest is left as it is.
    assert first.p_adjusted == first.difference.p_value
    assert max(second.p_adjusted, third.p_adjusted) < 1e-6


@pytest.mark.parametrize(("count", "pairs"), [(6, 15), (7, 6)])
def test_beyond_six_arms_each_is_compared_with_the_first(tmp_path, count, pairs):
    settings = [{"target.train_per_class": n, RATE: 0.1} for n in range(count)]
    outcomes = [[(0.5, (seed + n) / 20, 0.5) for seed in range(3)] for n in range(count)]
    contrasts = selection.contrasts_of(arms_in(build(tmp_path, settings, outcomes)))
    assert len(contrasts) == pairs
    sign = 1 if pairs == 6 else -1  # in pairs, the earlier arm is first; the common reference is second
    assert all(c.difference.interval.mean * sign > 0 for c in contrasts)


def test_a_seed_counts_once_all_of_its_trials_have_finished(tmp_path):
    store = build(tmp_path, outcomes=OUTCOMES[:1])
    assert [len(arm.selected) for arm in arms_in(store)] == [0, 0, 0]
    write_trial(store, f"{1:08x}{1:08x}", OUTCOMES[1][1])
    store.write_failure(f"{1:08x}{0:08x}", {"status": "failed", "error": "out of memory"})
    assert arms_in(store)[0].test_by_seed == {1: 0.72}
    assert all(c.difference.interval.num_values == 0 for c in selection.contrasts_of(arms_in(store)))
    assert 'id="arm-0"' in page.render(store)  # although no contrast has a value


def test_a_study_without_select_over_has_no_arms(tmp_path, capsys):
    store = build(tmp_path, select_over=())
    assert arms_in(store) == [] and 'id="arms"' not in page.render(store)
    assert main(["results", str(tmp_path), "--selected"]) == 2
    said = capsys.readouterr().err
    assert (
        "selects no factor on validation; add one of source.weights, training.initialization.start, "
        "training.layers.backbone_learning_rate" in said
    )


def test_all_factors_selected_over_make_one_arm(tmp_path):
    (arm,) = arms_in(build(tmp_path, select_over=("source.weights", INIT, RATE)))
    assert arm.label == "as configured" and arm.num_levels == 6
    assert list(arm.test_by_seed.values()) == [0.70, 0.72, 0.76]
    assert selection.contrasts_of([arm]) == []


def test_the_table_of_arms_and_the_selected_trials(tmp_path, capsys):
    build(tmp_path)
    assert main(["results", str(tmp_path), "--selected"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    # t(0.975, 2) 0.0305505 / sqrt(3) = 0.0759; with s = 0.02: 0.0497; t(0.975, 1) 0.0141421 / sqrt(2) = 0.1271
    assert "net.birds · pretrained 0.1 (2), 0.01 (1) 3/3 80.0 72.7 ± 7.6" in lines
    assert "net.cars · pretrained 0.01 (3) 3/3 60.0 66.0 ± 5.0" in lines
    assert "random 0.01 (2) 2/3, 1 diverged 45.0 51.0 ± 12.7" in lines
    assert "net.birds · pretrained − net.cars · pretrained +6.7 ± 11.5 0.13 3" in lines
    assert "net.birds · pretrained − random +20.0 ± 0.0 < 0.001 2" in lines
    assert main(["results", str(tmp_path), "--selected", "--csv"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith(
        "arm,trial,status,setting,source.weights,training.initialization.start,training.layers.backbone_learning_rate,seed"
    )
    assert len(rows) == 8 and rows[0].startswith(
        f"net.birds · pretrained,{0:016x},done,0,{A},pretrained,0.01,0,0.8,0.7"
    )
    assert selection.load_selected(tmp_path)["test_accuracy"].tolist() == [*SELECTED[0], *SELECTED[1], *SELECTED[2]]


def test_the_page_has_the_arms_and_their_differences(tmp_path):
    text = page.render(build(tmp_path))

    def row(name: str) -> str:
        found = re.search(rf'<tr id="{name}">.*?</tr>', text, re.DOTALL)
        assert found
        return " ".join(re.sub("<[^>]+>", " ", found[0]).split())

    assert row("arm-0") == "net.birds · pretrained 72.7 ± 7.6 80.0 2 0.1 (2), 0.01 (1) 3 0"
    assert row("arm-2") == "random 51.0 ± 12.7 45.0 2 0.01 (2) 2 of 3 1"
    assert row("contrast-0-1") == "net.birds · pretrained net.cars · pretrained +6.7 ± 11.5 0.13 3"
    assert row("contrast-0-2") == "net.birds · pretrained random +20.0 ± 0.0 &lt; 0.001 2"
    assert "Holm-corrected over 3 comparisons (every pair of arms)" in " ".join(text.split())
    assert 'aria-label="Test accuracy of each arm and seed"' in text


def test_the_summary_names_files_and_ends_with_the_arms(tmp_path, capsys):
    build(tmp_path)
    assert main(["results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert any(
        line.startswith("net.birds pretrained 0.1 3/3 76.7 81.0 (50.5 to 100.0)") and line.endswith("*")
        for line in lines
    )
    assert "/far/away" not in text
    assert "net.birds · pretrained 0.1 (2), 0.01 (1) 3/3 80.0 72.7 ± 7.6" in lines
    assert main(["results", str(tmp_path), "--trials"]) == 0
    assert "/far/away" not in capsys.readouterr().out


def test_selection_is_not_part_of_the_identity_of_a_trial():
    fields = {
        "seeds": 2,
        "target": {"classes": ["0", "1"], "train_per_class": 4, "val_per_class": 4},
        "training": {"initialization.start": "random", "batches.size": 4},
        "factors": [{RATE: [0.01, 0.1]}],
        "source": {"model": "cifar_resnet8"},
    }
    before, after = (make_plan(from_dict(Study, fields | more)) for more in ({}, {"select_over": [RATE]}))
    assert [trial.digest for trial in before.trials] == [trial.digest for trial in after.trials]


# --- configs/objects_to_scenes.py -------------------------------------------------------------------------------


@pytest.mark.parametrize("arg", ["{}", "small,{}"])
def test_scenes_without_data_are_an_error_of_one_sentence(root, tmp_path, arg, capsys):
    config = f"{root / 'configs' / 'objects_to_scenes.py'}:{arg.format(tmp_path)}"
    assert main(["config", "show", f"--config={config}"]) == 2
    assert capsys.readouterr().err == (
        "jaxft: the data file weights/resnetsmall14.cifar10.safetensors is not in "
        f"{str(tmp_path)!r}; give the folder of the data, --config=configs/objects_to_scenes.py:FOLDER, or leave "
        "FOLDER out.\n"
    )


@pytest.mark.slow
def test_all_arms_of_scenes_have_the_same_split(root, real_data):
    plan = make_plan(load_config(f"{root / 'configs' / 'objects_to_scenes.py'}:{real_data}").study)
    assert len(plan.trials) == 60 and plan.num_programs == 2  # CIFAR-100's mean and deviation are not CIFAR-10's
    for seed in range(5):
        (split,) = {t.split.digest: t.split for t in plan.trials if t.trial.seed == seed}.values()
        assert (len(split.train), len(split.val), len(split.test)) == (120, 120, 600)
    assert len({t.split.digest for t in plan.trials}) == 5


@pytest.mark.nightly
@pytest.mark.slow
def test_arms_of_reduced_scenes_agree_with_the_records(root, real_data, tmp_path, capsys):
    config = f"{root / 'configs' / 'objects_to_scenes.py'}:small,{real_data}"
    assert main(["study", f"--config={config}", f"--workdir={tmp_path}"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    best: dict[tuple[str, int], tuple[float, float, float]] = {}  # accuracy, minus loss, accuracy on test
    for path in tmp_path.glob("trials/*.json"):
        record = json.loads(path.read_bytes())
        training, source = record["trial"]["training"], record["trial"]["source"]
        arm = (
            f"{Path(source['weights']).stem} · pretrained"
            if training["initialization"]["start"] == "pretrained"
            else "random"
        )
        with np.load(path.with_suffix(".npz")) as arrays:
            loss = arrays["val_loss"][arrays["epoch"] == record["selected_epoch"]].item()
        scores = record["val_accuracy"], -loss, record["test_accuracy"]
        best[arm, record["seed"]] = max(best.get((arm, record["seed"]), scores), scores)
    arms = ["resnetsmall14.cifar10 · pretrained", "resnetsmall14.cifar100 · pretrained", "random"]
    assert set(best) == {(arm, seed) for arm in arms for seed in (0, 1)}
    page_text = (tmp_path / "report.html").read_text()
    for one, other in itertools.combinations(arms, 2):
        first, second = (100 * (best[one, seed][2] - best[other, seed][2]) for seed in (0, 1))
        mean, half_width = (first + second) / 2, 12.7062 * abs(first - second) / 2  # t(0.975, 1), s = |a - b| / sqrt(2)
        difference = f"{mean:+.1f} ± {half_width:.1f}".replace("-", "−")
        assert any(line.startswith(f"{one} − {other} {difference}") for line in lines), (difference, lines)
        assert difference in page_text
