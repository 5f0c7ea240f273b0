"""Analyses of a study: each result is measured once, retrains nothing, and equals the function on the same weights."""

import json

import jax
import numpy as np
import pandas as pd
import pytest

import jaxft
from jaxft.analysis.spectra import spectra
from jaxft.config import Study, as_config_file, from_dict
from jaxft.core.paths import unflatten
from jaxft.core.registries import ANALYSES
from jaxft.recipes.study import run_config
from jaxft.store.records import Store
from jaxft.study.analyses.analysis import TrainedTrial
from jaxft.study.plan import make_plan
from jaxft.study.services import make_services
from jaxft.study.work import Work
from jaxft.weights import load_weights

NAMES = ["spectra", "batch_norm", "rewind", "barrier", "units", "representation", "representation_of_seeds"]


def study(**fields):
    return {
        "seeds": 3,
        "source": {"model": "toy", "images": {"size_px": 8, "train_per_class": 5, "classes": ["0", "1", "2"]}},
        "source.training": {"initialization.start": "random", "schedule.epochs": 1.0, "batches.size": 5},
        "target": {
            "size_px": 8,
            "train_per_class": 5,
            "val_per_class": 4,
            "test_per_class": 4,
            "classes": ["5", "6", "7"],
        },
        "training": {"schedule": {"epochs": 2.0}, "batches": {"size": 5}, "optimizer": {"learning_rate": 0.1}},
        "factors": [{"training.layers.backbone_learning_rate": ["frozen", 0.1]}],
        **fields,
    }


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    """Returns the folder of a study that finished without analyses, and then ran with all of them."""
    workdir = tmp_path_factory.mktemp("analyses") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxft.report.write_report", lambda workdir: workdir)
        jaxft.run_study(study(), workdir, quiet=True)
        before = {path.name: path.read_bytes() for path in (workdir / "trials").iterdir()}
        jaxft.run_study(study(analyses=NAMES), workdir, quiet=True)
    return workdir, before


def test_an_analysis_of_a_finished_study_trains_nothing_again(analyzed):
    workdir, before = analyzed
    assert {path.name: path.read_bytes() for path in (workdir / "trials").iterdir()} == before
    assert set(jaxft.load_analyses(workdir)["analysis"]) == set(NAMES)


def test_spectra_are_those_of_the_stored_weights(analyzed):
    workdir, _ = analyzed
    results, table = jaxft.load_results(workdir), jaxft.load_analyses(workdir)
    tuned = results[results["training.layers.backbone_learning_rate"] != "frozen"]
    rows = table.query("analysis == 'spectra' and measure == 'stable_rank'")
    frozen = rows[rows["training.layers.backbone_learning_rate"] == "frozen"]
    assert set(frozen["name"]) == {"head/kernel"}  # no other kernel changed
    assert set(rows["name"]) > {"head/kernel"} and rows["value"].between(1, 64).all()
    model = jaxft.create_model("toy", num_classes=3)
    first, second = (
        load_weights(workdir / "weights" / f"{digest}.safetensors", model)["params"] for digest in tuned["trial"][:2]
    )
    assert set(spectra(first, second, 1)) == set(rows["name"])


def test_the_rewind_of_frozen_blocks_loses_nothing(analyzed):
    table = jaxft.load_analyses(analyzed[0]).query("analysis == 'rewind'")
    frozen = table["training.layers.backbone_learning_rate"] == "frozen"
    drops = table[frozen & (table["measure"] == "rewind_drop") & (table["name"] != "head")]
    assert len(drops) >= 3 and (drops["value"] == 0).all()
    results = jaxft.load_results(analyzed[0])
    accuracies = table.query("measure == 'accuracy'").sort_values(["setting", "seeds"])["value"].to_numpy()
    np.testing.assert_allclose(accuracies, results.sort_values(["setting", "seed"])["val_accuracy"], atol=1e-6)


def test_batch_norms_of_a_frozen_backbone_do_not_shift(analyzed):
    table = jaxft.load_analyses(analyzed[0]).query("analysis == 'batch_norm'")
    frozen = table["training.layers.backbone_learning_rate"] == "frozen"
    assert (table.loc[frozen, "value"] == 0).all() and (table.loc[~frozen, "value"] > 0).any()
    assert set(table["measure"]) == {"scale_shift", "bias_shift", "mean_shift", "log_variance_shift"}


def test_units_of_the_validation_images(analyzed):
    table = jaxft.load_analyses(analyzed[0]).query("analysis == 'units'")
    by_name = table.pivot_table(
        index=["training.layers.backbone_learning_rate", "name"], columns="measure", values="value"
    )
    model = jaxft.create_model("toy", num_classes=3)
    assert set(table["name"]) == {"total", *(tap.block for tap in model.taps)}
    frozen = by_name.loc["frozen"]
    assert (frozen["top_jaccard"] == 1).all() and np.allclose(frozen["correlation"], 1)
    np.testing.assert_array_equal(frozen["selectivity"], frozen["selectivity_before"])
    assert (by_name.loc[0.1]["top_jaccard"] < 1).all() and by_name["dead_units"].between(0, 1).all()


def test_representations_of_a_frozen_backbone_do_not_change(analyzed):
    table = jaxft.load_analyses(analyzed[0]).query("measure == 'cka'")
    is_frozen = table["training.layers.backbone_learning_rate"] == "frozen"
    taps = jaxft.create_model("toy", num_classes=3).taps
    for name, num_subjects in (("representation", 3), ("representation_of_seeds", 3)):
        rows = table[table["analysis"] == name]
        assert rows.groupby(is_frozen)["name"].nunique().tolist() == [len(taps)] * 2
        assert rows.groupby(is_frozen).size().tolist() == [num_subjects * len(taps)] * 2
    same = table[is_frozen & (table["analysis"] == "representation")]
    np.testing.assert_allclose(same["value"], 1, rtol=1e-5)
    assert (table[~is_frozen]["value"] < 0.9999).any()


def test_selectivity_of_a_tap_is_that_of_numpy(analyzed):
    trial = trained(analyzed[0], ["units"])
    images, labels = map(np.concatenate, zip(*trial.validation_batches(), strict=True))
    tap = trial.planned.model.taps[-1]
    activations = np.maximum(trial.apply(trial.final, images)[tap.name], 0).mean((1, 2), dtype=np.float64)
    means = np.stack([activations[labels == label].mean(0) for label in range(3)])
    largest, others = means.max(0), (means.sum(0) - means.max(0)) / 2
    selectivity = ((largest - others) / (largest + others))[activations.any(0)].mean()
    rows = {(row.name, row.measure): row.value for row in ANALYSES["units"].value.rows([trial])}
    assert rows[tap.block, "selectivity"] == pytest.approx(selectivity, rel=1e-5)
    logits = trial.planned.model.apply({n: unflatten(t) for n, t in trial.final.items()}, images)
    assert trial.accuracy(trial.final) == pytest.approx(np.mean(np.argmax(logits, 1) == labels))


def trained(workdir, names):
    """Returns the last trial of the study in `workdir`."""
    plan = make_plan(from_dict(Study, study(analyses=names)))
    work = Work(plan, Store(workdir), make_services(plan.study.execution, lambda event: None))
    return TrainedTrial(work, plan.trials[-1])


def test_barriers_are_of_all_pairs_of_seeds(analyzed):
    table = jaxft.load_analyses(analyzed[0]).query("measure == 'barrier'")
    assert table.groupby("setting")["seeds"].apply(list).tolist() == [["0 1", "0 2", "1 2"]] * 2
    assert (table["value"] >= 0).all()  # the ends of the line have no barrier


def test_results_are_measured_once(analyzed, monkeypatch):
    monkeypatch.setattr("jaxft.report.write_report", lambda workdir: workdir)
    workdir, _ = analyzed
    before = {path.name: path.read_bytes() for path in (workdir / "analyses").iterdir()}
    for name in NAMES:
        monkeypatch.setattr(type(ANALYSES[name].value), "rows", lambda *args: pytest.fail("measured again"))
    jaxft.run_study(study(analyses=NAMES), workdir, quiet=True)
    assert {path.name: path.read_bytes() for path in (workdir / "analyses").iterdir()} == before


def test_the_csv_file_has_all_rows(analyzed):
    table = jaxft.load_analyses(analyzed[0])
    written = pd.read_csv(analyzed[0] / "analyses.csv")
    assert len(written) == len(table) and list(written.columns) == list(table.columns)


@pytest.mark.slow
def test_the_page_has_a_section(analyzed):
    page = jaxft.report.write_report(analyzed[0]).read_text()
    assert "Rewind drop: mean over seeds" in page and "Mean over all pairs of seeds" in page


def test_a_damaged_result_is_measured_again(analyzed, monkeypatch):
    monkeypatch.setattr("jaxft.report.write_report", lambda workdir: workdir)
    workdir, _ = analyzed
    path = next(
        path
        for path in sorted((workdir / "analyses").glob("*.json"))
        if json.loads(path.read_text()).get("analysis") == "spectra"
    )
    content = path.read_bytes()
    path.write_bytes(content.replace(b"stable_rank", b"stable_runk", 1))
    with pytest.raises(jaxft.UserError, match="is damaged or missing"):
        jaxft.load_analyses(workdir)
    jaxft.run_study(study(analyses=NAMES), workdir, quiet=True)
    assert path.read_bytes() == content


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("executor", ["sequential", "vmap"])
def test_trajectories_pass_through_the_snapshots(tmp_path, executor):
    """Two epochs of three batches. The last snapshot has the final weights, because the last epoch is selected."""
    config = study(
        analyses=["trajectory"],
        seeds=2,
        factors=[],
        execution={"snapshot_steps": [1, 3, 6, 100], "executor": executor},
    )
    config["training"]["selection"] = {"weights": "last"}
    results = jaxft.run_study(config, tmp_path / "study", quiet=True)
    model = jaxft.create_model("toy", num_classes=3)
    for digest in results["trial"]:
        folder = tmp_path / "study" / "snapshots" / digest
        assert sorted(path.stem for path in folder.iterdir()) == ["1", "3", "6"]
        weights = [folder / "6.safetensors", tmp_path / "study" / "weights" / f"{digest}.safetensors"]
        last, final = (load_weights(path, model)["params"] for path in weights)
        assert all((a == b).all() for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(final)))
    table = jaxft.load_analyses(tmp_path / "study")
    assert table.query("level == 'step' and seeds == '0'")["name"].tolist() == ["1", "3", "6"]
    assert table.query("measure == 'straightness'")["value"].dropna().between(0, 1 + 1e-6).all()
    assert "; 6 snapshots, " in make_plan(as_config_file(config).study).weights_line()
    distance = results["relative_change"]
    assert (table.query("level == 'total' and measure == 'path_length'")["value"] > 0).all() and (distance > 0).all()


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_snapshots_do_not_change_the_results_and_are_asked_for_before_training(tmp_path):
    config = study(seeds=1, factors=[], analyses=["trajectory"])
    without = jaxft.run_study(config, tmp_path / "without", quiet=True)
    with_snapshots = jaxft.run_study(config | {"execution": {"snapshot_steps": [2]}}, tmp_path / "with", quiet=True)
    assert without.drop(columns="seconds").equals(with_snapshots.drop(columns="seconds"))
    assert "have no snapshots" in (tmp_path / "without" / "events.jsonl").read_text()
    assert not len(jaxft.load_analyses(tmp_path / "without")) and len(jaxft.load_analyses(tmp_path / "with"))


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_trials_without_weights_are_reported(tmp_path):
    events = []
    config = study(
        analyses=["spectra", "barrier"],
        seeds=2,
        training={"initialization.start": "random", "schedule.epochs": 1.0, "batches.size": 5},
        factors=[],
        execution={"keep_weights": "none"},
    )
    del config["source.training"]
    config["source"] = {"model": "toy"}
    run_config(as_config_file(config), tmp_path / "study")
    log = (tmp_path / "study" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in log]
    skipped = [event for event in events if "no stored weights" in str(event.get("reason"))]
    assert [event["analysis"] for event in skipped] == ["spectra of 2 trials", "barrier of 2 trials"]
    assert not len(jaxft.load_analyses(tmp_path / "study"))


def test_an_unknown_analysis_is_refused_with_a_near_miss():
    with pytest.raises(
        jaxft.UserError, match=r"'analyses' is .*allowed: a list of .*'spectra'.*did you mean 'barrier'"
    ):
        as_config_file(study(analyses=["barier"]))
