"""Columns, sections, measures and metrics of a plug-in are in all tables, files and pages."""

import csv
import re

import numpy as np
import pytest
from helpers import edit_record
from markupsafe import Markup
from report.test_report import BODY_RATE, build, text_of

from jaxft.analysis.measures import MEASURES, Measure
from jaxft.cli import main
from jaxft.core.metrics import METRICS, Metric
from jaxft.core.text import number
from jaxft.report import page
from jaxft.report.sections.registry import SECTIONS, Section
from jaxft.store.columns import COLUMNS, Column, mean_number
from jaxft.store.records import Store


@pytest.fixture
def register():
    """Returns a function that registers an entry for one test."""
    added = []

    def register_for_a_test(registry, name, value, help=""):
        registry.register(name, value, help=help)
        added.append((registry, name))

    yield register_for_a_test
    for registry, name in added:
        del registry.entries[name]


def section_of(text, name):
    section = re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)
    assert section
    return text_of(section[0])


def test_a_column_is_in_the_results_their_files_the_tables_and_the_page(tmp_path, capsys, register):
    column = Column(
        lambda record: 7 + record["width"],
        "float64",
        title="trials together",
        unit="px",
        format=number,
        summary=mean_number,
    )
    register(COLUMNS, "trials together", column, help="width plus seven")
    store = build(tmp_path)
    assert store.results()["trials together"].tolist() == [8.0] * 12
    paths = store.export_results()
    with paths[0].open() as file:
        assert [row["trials together"] for row in csv.DictReader(file)] == ["8.0"] * 12
    for flags, line in (
        (["--trials"], r"sequential +8\n"),
        ([], r"0\.02 +8 \*\n"),
        (["--columns"], "trials together +width plus seven"),
    ):
        assert main(["results", str(tmp_path), *flags]) == 0
        out = capsys.readouterr().out
        assert re.search(line, out), out
        assert flags == ["--columns"] or "trials together px" in out
    text = page.render(store)
    assert (
        "executor trials together, px 0000000000000000 0 frozen 0 done 70.0 60.0 5 20.5 s sequential 8"
        in section_of(text, "trials")
    )
    assert "backbone change trials together, px done" in section_of(text, "settings")
    assert "1 ★ 83.0 ± 4.1 0.01 91.0 0.02 8 4 0" in section_of(text, "settings")


def test_every_column_has_help():
    assert all(entry.help for entry in COLUMNS.values())


def test_a_section_is_on_the_page_if_it_applies(tmp_path, register):
    register(
        SECTIONS,
        "notes",
        Section("Notes on all", lambda c: Markup("<p>{} <b>of</b></p>").format(len(c.settings)), "Notes"),
    )
    register(SECTIONS, "absent", Section("Not here", lambda context: None))
    text = page.render(build(tmp_path))
    assert section_of(text, "notes") == "Notes on all 3 of"
    assert text.count('<a href="#notes">Notes</a>') == 1
    assert "absent" not in text and "Not here" not in text
    assert text.index('<section id="made">') < text.index('<section id="notes">')


def add_measure(store: Store) -> None:
    """Adds a measure to the records: 0.5 in the first layer, -0.25 in the others, 0.125 over the backbone."""

    def added(record):
        for i, change in enumerate(record["changes"].values()):
            change["turn"] = 0.5 if i == 0 else -0.25
        return record | {"backbone_change": {"turn": 0.125}}

    for digest in store.digests("trials"):
        edit_record(store, f"trials/{digest}.json", added)


@pytest.mark.parametrize("is_registered", [True, False])
def test_a_measure_in_the_records_has_a_table_a_map_and_a_column(tmp_path, capsys, register, is_registered):
    """Without the plug-in, tables show the name of the measure."""
    if is_registered:
        register(MEASURES, "turn", Measure(lambda totals: totals.l2, label="turn of the layer"), help="angle")
    store = build(tmp_path)
    add_measure(store)
    assert set(store.changes()["turn"]) == {0.5, -0.25}
    assert store.results()["backbone_turn"].tolist() == [0.125] * 12
    assert main(["results", str(tmp_path), "--layers", "--measure", "turn"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"stem/conv1 +0\.5 ± 0 +0\.5 ± 0", out) and re.search(r"head +-0\.25 ± 0", out)
    assert out.splitlines()[-1].startswith("turn of each layer, angle:" if is_registered else "turn of each layer:")
    text = page.render(store)
    assert len(re.findall(r"<svg ", re.search(r'<section id="change">.*?</section>', text, re.DOTALL)[0])) == 2
    assert ("turn of the weights of each layer (angle)" in section_of(text, "change")) == is_registered
    assert f'aria-label="{"turn of the layer" if is_registered else "turn"} by layer"' in text
    assert "turn of the backbone" in section_of(text, "settings") and "0.125" in section_of(text, "settings")
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("is_registered", [True, False])
def test_a_metric_in_the_records_has_columns_and_is_on_the_page(tmp_path, capsys, register, is_registered):
    """Errors by seed are 1, 2, 3, 4: t(0.975, 3) = 3.1824, s = 1.2910, n = 4: 3.1824 * 1.2910 / 2 = 2.05."""
    if is_registered:
        metric = Metric(lambda labels, predictions: np.sum(labels != predictions), title="mistakes", is_share=False)
        register(METRICS, "errors", metric, help="number of wrong predictions")
    store = build(tmp_path, select_over=(BODY_RATE,))
    for trial in store.plan()["trials"]:
        found = {"val_errors": 0.5, "test_errors": float(trial["seed"] + 1)}
        edit_record(store, f"trials/{trial['trial']}.json", lambda record, found=found: record | found)
    results = store.results()
    assert results.columns.tolist()[-8:-3] == [
        "test_mean_per_class",
        "val_errors",
        "test_errors",
        "selected_epoch",
        "relative_change",
    ]
    assert results["test_errors"].tolist() == [1.0, 2.0, 3.0, 4.0] * 3 and set(results["val_errors"]) == {0.5}
    title = "mistakes" if is_registered else "errors"
    explained = "number of wrong predictions" if is_registered else "errors"
    assert main(["results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"{title} +backbone change\n", out) and re.search(r"83\.0 ± 4\.1 +2\.5 ± 2\.1 +0\.02 \*\n", out)
    assert f"{title}: {explained}, on the test images.\n" in out
    assert re.search(rf"test % +{title}\n", out)  # of the arms
    assert main(["results", str(tmp_path), "--columns"]) == 0
    assert re.search(rf"val_errors +{explained}, on the validation images\n", capsys.readouterr().out)
    text = page.render(store)
    assert f"setting test accuracy, % {title} " in section_of(
        text, "settings"
    ) and f"test accuracy, % {title} " in section_of(text, "arms")
    assert "1 ★ 83.0 ± 4.1 2.5 ± 2.1 0.01 91.0 0.02 4 0" in section_of(text, "settings")
    assert f"{title.capitalize()}: {explained}, on the test images." in section_of(text, "settings")


PLUGIN = """
from markupsafe import Markup
from jaxft.report.sections.registry import SECTIONS, Section
__version__ = "1"
SECTIONS.register("plugged", Section("Plugged in", lambda context: Markup("<p>here</p>")))
"""


def test_the_plugins_of_a_study_are_loaded_for_its_report(tmp_path, capsys, monkeypatch):
    store = build(tmp_path / "work")
    plan = store.plan()
    store.write_plan(plan | {"config": plan["config"] | {"plugins": ["seam_plugin"]}})
    assert main(["report", str(store.workdir)]) == 0
    assert capsys.readouterr().err.startswith("warning: the plug-in 'seam_plugin' does not exist")
    (tmp_path / "seam_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert main(["report", str(store.workdir)]) == 0
        assert capsys.readouterr().err == ""
        assert section_of((store.workdir / "report.html").read_text(), "plugged") == "Plugged in here"
    finally:
        SECTIONS.entries.pop("plugged", None)


def test_a_measure_that_no_trial_has_is_named_in_one_sentence(tmp_path, capsys):
    build(tmp_path)
    assert main(["results", str(tmp_path), "--layers", "--measure", "cosin"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "jaxft: no trial of this study has the measure 'cosin' (did you mean 'cosine'?); allowed: l2, "
    )
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_study_records_a_registered_measure(tmp_path, register):
    from jaxft.recipes.study import run_study

    measure = Measure(
        lambda totals: totals.extra["abs_change"] / totals.num_values,
        label="mean absolute change",
        terms={"abs_change": lambda before, after: abs(after - before)},
        whole=True,
    )
    register(MEASURES, "mean_abs_change", measure)
    study = {
        "seeds": 1,
        "target": {"data": "digits", "classes": ["2", "3"], "train_per_class": 4, "val_per_class": 4},
        "training": {"initialization.start": "random", "batches.size": 4, "schedule.epochs": 1.0},
        "factors": [{BODY_RATE: ["frozen", 0.1]}],
        "source": {"model": "cifar_resnet8"},
    }
    results = run_study(study, tmp_path, quiet=True).set_index(BODY_RATE)
    changes = Store.open(tmp_path).changes().set_index(["setting", "layer"])
    assert results["backbone_mean_abs_change"]["frozen"] == 0 < results["backbone_mean_abs_change"][0.1]
    assert changes["mean_abs_change"][0, "stem/conv"] == 0 < changes["mean_abs_change"][1, "stem/conv"]
    assert (changes["mean_abs_change"] <= changes["rms"] * (1 + 1e-6)).all()  # holds for any values
