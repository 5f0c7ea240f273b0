"""The report: numbers computed by hand, reproducible bytes, and its display in a browser."""

import html.parser
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxft.analysis.statistics import Interval, mean_interval
from jaxft.cli import main
from jaxft.config import Images, Source, Study, Training, non_default, to_dict
from jaxft.core.text import shortened
from jaxft.report import page, write_report
from jaxft.report.colors import setting_colors
from jaxft.report.figures.factors import factor_lines
from jaxft.report.labels import level_labels
from jaxft.report.levels import axis_positions, level_key
from jaxft.report.sections import change as change_section
from jaxft.report.sections import distances as distances_section
from jaxft.report.sections.curves import mean_curve
from jaxft.report.sections.settings import scale_of
from jaxft.report.settings import Setting
from jaxft.store.records import Store

BODY_RATE = "training.layers.backbone_learning_rate"
LEVELS = ("frozen", 0.01, 0.1)
LAYERS = ("stem/conv1", "stage1/block1/downsample/convolution_1x1", "head")
# By setting and seed; None: the trial diverged.
TEST = ((0.60, 0.60, 0.60, 0.60), (0.80, 0.82, 0.84, 0.86), (0.70, None, 0.74, 0.78))
VAL = ((0.70, 0.70, 0.70, 0.70), (0.90, 0.90, 0.92, 0.92), (0.80, None, 0.84, 0.88))
RELATIVE = (0.0, 0.02, 0.4)  # of the backbone, by setting


def digest_of(setting: int, seed: int) -> str:
    return f"{setting:08x}{seed:08x}"


def build(
    workdir: Path,
    *,
    title: str = "Which learning rate for the backbone?",
    num_run: int = 12,
    uneven: bool = False,
    pairwise: bool = True,
    select_over: tuple[str, ...] = (),
) -> Store:
    """Returns the store of a study with three settings and four seeds, in which `num_run` trials have run."""
    store = Store.create(workdir)
    trials = [
        {"trial": digest_of(i, seed), "setting": i, "factors": {BODY_RATE: level}, "seed": seed}
        for i, level in enumerate(LEVELS)
        for seed in range(4)
    ]
    study = Study(
        title=title,
        source=Source(images=Images(classes=("0", "1"))),
        training=Training.of({"schedule.epochs": 6.0}),
        seeds=(0, 1, 2, 3),
        factors=({BODY_RATE: LEVELS},),
        select_over=select_over,
    )
    store.write_plan(
        {
            "title": title,
            "docstring": "Does the backbone need to change?\n\nExpected:\n- frozen is worse",
            "config": to_dict(study),
            "changed": non_default(study),
            "config_path": "configs/body_rate.py",
            "factors": [BODY_RATE],
            "settings": [{BODY_RATE: level} for level in LEVELS],
            "layers": list(LAYERS),
            "chance": 0.1,
            "uneven": uneven,
            "trials": trials,
            "varied": ["split", "init"],
            "source": {"trials": ["feedfacefeedface"]},
        }
    )
    source = {"status": "done", "val_accuracy": 0.98, "seconds": 75.0, "trial": {"source": {"model": "resnet18"}}}
    store.write("sources", "feedfacefeedface", source, {"epoch": np.arange(3.0)})
    for trial in trials[:num_run]:
        write_trial(store, trial)
    if pairwise:
        # Unsorted, because the report sorts runs. The distance over the backbone is sqrt(3^2 + 4^2) = 5 times the gap.
        runs = [(1, 0), (0, 1), (0, 0)]
        gap = np.array([[0, 2, 2], [2, 0, 1], [2, 1, 0]], np.float32)
        store.write(
            "analyses",
            "0123",
            {"analysis": "pairwise", "trials": [digest_of(*run) for run in runs], "layers": list(LAYERS)},
            {"distances": np.stack([3 * gap, 4 * gap, 100 * gap])},
        )
    store.write_run(
        {
            "started": "2026-11-22T20:00:00Z",
            "command": ["jaxft", "study", "configs/body_rate.py", "--workdir", "a place"],
            "versions": {"jaxft": "0.1.0", "jax": "0.10.1"},
            "device": "cpu",
            "git": {"commit": "abcdef0", "dirty": True},
            "seconds": 125.0,
            "spent": {"train": 75.0, "compile": 30.0},
            "config": {"title": "left out"},
        },
        started=1_795_377_600.0,
    )
    return store


def write_trial(store: Store, trial: Mapping[str, Any]) -> None:
    setting, seed = trial["setting"], trial["seed"]
    diverged = TEST[setting][seed] is None
    changes = {
        layer: {
            "l2": 1.0,
            "relative_l2": 1.5 if layer == "head" else RELATIVE[setting] * (1 + seed),
            "rms": 0.1,
            "cosine": 0.9,
            "sign_flips": 0.01,
        }
        for layer in LAYERS
    }
    record = {
        "status": "diverged" if diverged else "done",
        "val_accuracy": VAL[setting][seed],
        "test_accuracy": TEST[setting][seed],
        "test_mean_per_class": None if diverged else TEST[setting][seed] - 0.1,
        "selected_epoch": None if diverged else 5,
        "relative_change": None if diverged else RELATIVE[setting],
        "seconds": 20.5,
        "executor": "sequential",
        "width": 1,
        "changes": {} if diverged else changes,
    }
    epoch = np.arange(1.0, 7.0)
    loss = 2.0 ** -(epoch + seed)
    if diverged:
        loss[3:] = np.nan
    accuracy = 1 - loss
    arrays = {
        "epoch": epoch,
        "train_loss": loss,
        "train_accuracy": accuracy,
        "val_loss": loss,
        "val_accuracy": accuracy,
    }
    store.write("trials", trial["trial"], record, arrays)


def text_of(fragment: str) -> str:
    """Returns the visible text of HTML on one line, without figures."""
    visible = re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", fragment, flags=re.DOTALL)
    return " ".join(html.unescape(visible).split())


def row_of(text: str, setting: int) -> str:
    row = re.search(rf'<tr[^>]* id="setting-{setting}">.*?</tr>', text, re.DOTALL)
    assert row
    return text_of(row[0])


# --- numbers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns the path of the report of a complete study. Tests only read it."""
    folder = tmp_path_factory.mktemp("report")
    build(folder)
    return write_report(folder)


def test_numbers_are_those_computed_by_hand(written):
    text = written.read_text()
    # t(0.975, 3) = 3.1824, s = 0.025820, n = 4: 3.1824 * 0.025820 / 2 = 0.0411
    assert row_of(text, 0) == "0 60.0 ± 0.0 frozen 70.0 0 4 0"
    assert row_of(text, 1) == "1 ★ 83.0 ± 4.1 0.01 91.0 0.02 4 0"
    # t(0.975, 2) = 4.3027, s = 0.04, n = 3: 4.3027 * 0.04 / sqrt(3) = 0.0994
    assert row_of(text, 2) == "2 74.0 ± 9.9 0.1 84.0 0.4 3 of 4 1"
    summary = text_of(text[text.index('id="summary"') : text.index("</dl>")])
    assert "12 of 12 11 done, 1 diverged, 0 failed; 3 settings, 4 seeds" in summary
    assert "0.01 setting 1 (backbone learning rate); validation accuracy 91.0 %" in summary
    assert "Test accuracy of this setting 83.0 ± 4.1 % mean over 4 seeds; chance: 10.0 %" in summary
    assert "Random streams that differ between seeds: split, init." in text_of(text)
    assert 'id="unfinished"' not in text


def test_uneven_classes_add_a_column(tmp_path, capsys):
    """The mean over the classes is 10 percentage points lower than each test accuracy."""
    build(tmp_path, uneven=True, select_over=(BODY_RATE,))
    text = write_report(tmp_path).read_text()
    assert row_of(text, 1) == "1 ★ 83.0 ± 4.1 73.0 ± 4.1 0.01 91.0 0.02 4 0"
    assert "Per class: mean over classes of the accuracy on each class" in text_of(text)
    assert main(["results", str(tmp_path)]) == 0
    summary = capsys.readouterr().out
    assert summary.count("per class %") == 2  # in the table of settings and in that of arms
    assert "73.0 ± 4.1" in summary
    assert main(["results", str(tmp_path), "--trials"]) == 0
    assert "per class %" in capsys.readouterr().out
    build(tmp_path / "even", select_over=(BODY_RATE,))
    assert main(["results", str(tmp_path / "even")]) == 0
    assert "per class" not in capsys.readouterr().out
    assert "per class" not in text_of(write_report(tmp_path / "even").read_text()).lower()


def test_commands_sources_and_config_are_on_the_page(written):
    text = text_of(written.read_text())
    assert "jaxft study configs/body_rate.py --workdir 'a place'" in text
    assert "versions jaxft 0.1.0, jax 0.10.1 device cpu git commit abcdef0, dirty true time 2 min 05 s " in text
    assert " time by activity train 1 min 15 s, compile 30 s" in text
    assert "left out" not in text
    made = re.search(r'<section id="made">.*?</section>', written.read_text(), re.DOTALL)[0]
    parts = made.split('<div class="part">')[1:]
    headings = [text_of(re.search(r"<h3>.*?</h3>", part)[0]).split(",")[0] for part in parts]
    assert headings[0] == "Commands" and headings[1].startswith("Latest run")
    assert headings[2:] == ["Source network feedfacefeedface", "Config"]
    rows = [text_of(row) for row in re.findall(r"<tr>.*?</tr>", parts[2], re.DOTALL)]
    assert rows == ["model resnet18", "status done", "validation accuracy 98.0 %", "time 1 min 15 s"]
    assert "feedfacefeedface model resnet18 status done validation accuracy 98.0 % time 1 min 15 s" in text
    assert "training.schedule.epochs 6.0" in text.split("All fields")[0]
    assert "training.optimizer.momentum" not in text.split("All fields")[0]  # has its default
    assert f"factors {BODY_RATE}: frozen, 0.01, 0.1" in text
    assert f"{digest_of(2, 1)} 2 0.1 1 diverged – – – 20.5 s sequential" in text
    assert f"{digest_of(1, 3)} 1 0.01 3 done 92.0 86.0 5 20.5 s sequential" in text


def test_distances_are_over_the_backbone_and_sorted(tmp_path, monkeypatch):
    store, drawn = build(tmp_path), []
    monkeypatch.setattr(distances_section, "distance_map", lambda *args: drawn.append(args) or "")
    page.render(store)
    ((_, _, setting_of_run, distances),) = drawn
    assert setting_of_run == [0, 0, 1]
    np.testing.assert_allclose(distances, [[0, 5, 10], [5, 0, 10], [10, 10, 0]])


def test_change_is_the_mean_over_done_trials_in_the_order_of_the_network(tmp_path, monkeypatch):
    store, drawn = build(tmp_path), []
    monkeypatch.setattr(change_section, "change_map", lambda *args: drawn.append(args) or "")
    page.render(store)
    ((_, _, layers, values, _),) = drawn
    assert layers == list(LAYERS)
    # Seeds 0 to 3 change by 1, 2, 3, 4 times the value of the setting; seed 1 of the last setting diverged.
    backbone = [0.0, 0.02 * 2.5, 0.4 * 8 / 3]
    np.testing.assert_allclose(values, [backbone, backbone, [1.5] * 3])


def test_the_axis_of_accuracies_ends_at_one():
    assert scale_of([Interval(0.9, 0.5, 2), Interval(0.2, 0.1, 2)]) == pytest.approx((0.061, 1.0))


def test_a_docstring_is_unwrapped_except_at_lists_and_labels():
    text = "A question,\n wrapped?\n\nExpected:\n- one\n  more\n- two\nSource: a paper"
    assert page.paragraphs(text) == [
        ("A question, wrapped?", False),
        ("Expected:", False),
        ("- one more", True),
        ("- two", True),
        ("Source: a paper", True),
    ]


def test_a_mean_curve_ignores_values_that_are_not_finite():
    curve = mean_curve(np.arange(2.0), [np.array([1.0, np.nan]), np.array([3.0, 4.0])])
    np.testing.assert_allclose(curve.mean, [2.0, 4.0])
    # t(0.975, 1) = 12.706, s = sqrt(2), n = 2
    np.testing.assert_allclose(curve.half_width, [12.7062, np.nan], rtol=1e-5)


# --- levels, lines, colors ---------------------------------------------------------------------------------


def test_numbers_are_on_a_log_axis_and_words_at_the_left():
    positions = axis_positions(["frozen", 1.0, 0.01, 0.1])
    at = [positions.position[level_key(level)] for level in ("frozen", 0.01, 0.1, 1.0)]
    assert at == pytest.approx([-1.3, 0, 1, 2])
    assert positions.separator == pytest.approx(-0.65) and "logarithmic" in positions.note
    linear = axis_positions([5, 10, 20])
    assert (
        list(linear.position.values()) == pytest.approx([0, 2 / 3, 2]) and linear.separator is None and not linear.note
    )
    crowded = axis_positions([0, 1e-4, 1.0])
    assert list(crowded.position.values()) == [0, 1, 2] and crowded.note == "evenly spaced"


def test_labels_of_different_levels_differ():
    labels = level_labels([None, True, 1e-5, ["a", 3], "/far/away/photographs.zip"])
    assert list(labels.values()) == ["none", "true", "1e-05", "a, 3", "photographs"]
    draws = [{"data": "/far/away/scenes.zip", "size_px": size} for size in (32, 64)]
    assert list(level_labels([None, draws[0]]).values()) == ["none", "scenes"]
    assert all(f'"size_px": {size}' in label for size, label in zip((32, 64), level_labels(draws).values()))
    same_file_name = level_labels(["/one/data.npz", "/two/data.npz"])
    assert list(same_file_name.values()) == ["/one/data.npz", "/two/data.npz"]
    assert shortened("abcdefghij" * 4, 10) == "abcd…fghij"


def some_setting(number: int, factors: dict[str, Any], by_seed: dict[int, float]) -> Setting:
    interval = mean_interval(list(by_seed.values()))
    return Setting(number, factors, "", "#000000", 2, 2, 0, by_seed, {"test_accuracy": interval})


def test_many_lines_become_one_average_seed_by_seed():
    grid = [{"a": a, "b": b} for b in range(9) for a in ("x", "y")][:-1]  # the last combination has no 'y'
    settings = [some_setting(i, f, {0: f["b"] / 10, 1: f["b"] / 10 + 0.1}) for i, f in enumerate(grid)]
    (line,), description = factor_lines("a", ["a", "b"], settings)
    assert [level for level, _, _ in line.points] == ["x", "y"]
    # The eight complete combinations, b = 0 to 7, have the means 0.35 (seed 0) and 0.45 (seed 1).
    assert [value.mean for _, value, _ in line.points] == pytest.approx([0.4, 0.4])
    assert line.points[0][1].half_width == pytest.approx(12.7062 * 0.05, rel=1e-4)
    assert description == "averaged within each seed over the 8 combinations of b that have every level"
    lines, description = factor_lines("b", ["a", "b"], settings)
    assert [line.label for line in lines] == ["x", "y"] and description.startswith("one line per a;")


@pytest.mark.parametrize("others", [1, 2, 8, 9])
def test_all_settings_have_different_colors(others):
    settings = [{"rate": rate, "other": other} for other in range(others) for rate in ("frozen", *range(1, 10))]
    assert len(set(setting_colors(["other", "rate"], settings))) == len(settings)


# --- the page as a file -------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """Collects the tags of a page with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_html_in_a_title_is_escaped(tmp_path):
    build(tmp_path, title="<script>alert('x')</script> & Co")
    text = write_report(tmp_path).read_text()
    assert "script" not in {tag for tag, _ in Tags(text).tags}
    assert text.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; Co</h1>") == 1


def test_ids_are_unique_and_every_reference_stays_within_the_page(written):
    text = written.read_text()
    tags = Tags(text).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    references = [attrs[name] for _, attrs in tags for name in ("href", "xlink:href", "src") if attrs.get(name)]
    references += re.findall(r"url\(([^)]+)\)", text)
    assert len(references) > 50
    assert {r for r in references if not r.startswith("data:")} <= {f"#{name}" for name in ids}


def test_equal_records_give_identical_bytes(written, tmp_path):
    first = written.read_bytes()
    build(tmp_path)
    for _ in range(2):
        assert write_report(tmp_path).read_bytes() == first
    assert len(first) < 500_000


def test_the_matplotlib_style_of_the_user_has_no_effect(written):
    import matplotlib

    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "none", "axes.facecolor": "black"}):
        assert page.render(Store.open(written.parent)) == written.read_text()


def test_an_unfinished_study_has_a_banner(tmp_path):
    store = build(tmp_path, num_run=5, pairwise=False)
    store.write_failure(digest_of(1, 1), {"status": "failed", "error": "out of memory"})
    text = write_report(tmp_path).read_text()
    banner = text_of(text[text.index('id="unfinished"') - 3 : text.index('<dl class="facts"')])
    assert "Unfinished: 5 of 12 trials. 1 failed; the next run repeats it" in banner
    assert "(1: out of memory )." in banner and "6 have not run yet." in banner
    assert row_of(text, 1) == "1 ★ 80.0 0.01 90.0 0.02 1 of 4 0"
    assert row_of(text, 2) == "2 – 0.1 – – 0 of 4 0"
    assert "the final weights of the trials were not saved" in text_of(text)


def test_a_study_without_trials_has_a_page(tmp_path):
    build(tmp_path, num_run=0, pairwise=False)
    text = text_of(write_report(tmp_path).read_text())
    assert "Unfinished: 0 of 12 trials." in text and "No finished trial has learning curves." in text
    assert "No parameter change has been measured yet." in text


def test_large_libraries_are_imported_late_and_jax_never(tmp_path):
    build(tmp_path)
    code = (
        "import sys, jaxft.report\n"
        "heavy = {'jax', 'matplotlib', 'pandas', 'jinja2'} & set(sys.modules)\n"
        f"jaxft.report.write_report({str(tmp_path)!r})\n"
        "print(sorted(heavy), 'jax' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[0] == "[] False False"


# --- the page in a browser ----------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000"),
    *("--window-size=1500,1000", "--dump-dom"),
]
# Shows the report in a frame of the tested width (a window cannot be as narrow as a phone), and measures the frame.
PROBE = """<!DOCTYPE html><link rel="icon" href="data:,"><pre id="found"></pre>
<iframe id="frame" src="report.html" style="border:0;width:WIDTHpx;height:900px"></iframe>
<script>
document.getElementById("frame").onload = function () {
  const page = this.contentDocument, width = this.contentWindow.innerWidth;
  page.querySelectorAll("details").forEach(d => { d.open = true; });
  const name = e => e.tagName + "." + (e.getAttribute("class") || "") + "#" + e.id;
  const outside = [], cut = [];
  for (const e of page.body.querySelectorAll("*")) {
    const style = this.contentWindow.getComputedStyle(e);
    if (["hidden", "clip"].includes(style.overflowX) && e.tagName != "svg" && !e.closest("svg")
        && e.scrollWidth > e.clientWidth + 1) cut.push(name(e));
    const box = e.parentElement.closest(".scroll, .tall, pre, svg");
    const place = e.getBoundingClientRect();
    if (!box && place.width && (place.right > width + 0.5 || place.left < -0.5)) outside.push(name(e));
  }
  const pictures = [...page.querySelectorAll("svg[role=img]")].map(svg => {
    const place = svg.getBoundingClientRect(), ink = svg.getBBox();
    return { label: svg.getAttribute("aria-label"), width: place.width, height: place.height,
             ink: Math.min(ink.width, ink.height), px_per_pt: place.width / svg.viewBox.baseVal.width };
  });
  document.getElementById("found").textContent = JSON.stringify(
    { width, scrollWidth: page.documentElement.scrollWidth, outside, cut, pictures });
};
</script>"""


def measure(folder: Path, width: int) -> tuple[dict[str, Any], list[str], list[str]]:
    """Returns the measurements of the report in `folder`, the console lines, and the requested paths."""
    (folder / "probe.html").write_text(PROBE.replace("WIDTH", str(width)))
    requested: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any):
            super().__init__(*args, directory=str(folder))

        def log_request(self, *args: Any) -> None:
            requested.append(self.path)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/probe.html"
            command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", url]
            run = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "LANG": "C"})
        finally:
            server.shutdown()
            thread.join()
    found = re.search(r'<pre id="found">(.+?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stderr[-2000:]
    return (
        json.loads(html.unescape(found[1])),
        [line for line in run.stderr.splitlines() if "CONSOLE" in line],
        requested,
    )


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH to open the page in")
@pytest.mark.parametrize("width", [1400, 360])
def test_a_browser_shows_everything(tmp_path, width):
    build(tmp_path, select_over=(BODY_RATE,))
    write_report(tmp_path)
    measured, console, requested = measure(tmp_path, width)
    assert measured["width"] == width
    assert console == []
    assert sorted(requested) == ["/probe.html", "/report.html"]
    labels = [picture["label"] for picture in measured["pictures"]]
    assert len(labels) == 7  # arms, one factor, curves of three settings, changes, distances
    assert all(p["width"] > 150 and p["height"] > 100 and p["ink"] > 50 for p in measured["pictures"]), measured[
        "pictures"
    ]
    assert min(p["px_per_pt"] for p in measured["pictures"]) > 0.95  # 9.5 pt text is at least 9 px high
    assert measured["scrollWidth"] <= width
    assert measured["outside"] == [] and measured["cut"] == []
