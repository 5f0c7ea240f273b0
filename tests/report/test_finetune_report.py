"""The page, the model card and the summary of `jaxft finetune`, for a synthetic record with known numbers."""

import base64
import copy
import html
import io
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import draw_variables
from matplotlib.colors import to_rgb
from PIL import Image
from report.test_report import CHROMIUM, Tags, measure, text_of

from jaxft.analysis.statistics import Interval
from jaxft.cli import main
from jaxft.core.metrics import METRICS, Metric
from jaxft.models import create_model
from jaxft.report import finetune
from jaxft.report.figures.axes import side_by_side, whisker
from jaxft.report.figures.confusion import colored_matrix, luminance
from jaxft.report.figures.finetune import selection_curves
from jaxft.report.finetune import model_card, summary_lines, write_finetune_page
from jaxft.report.soup_lines import legend_labels
from jaxft.weights import save_weights

NAMES = ("<b>bold</b>", "a|b_c", "cat")
CONFUSION = [[8, 2, 0], [1, 9, 0], [0, 0, 10]]  # 27 of 30 are correct


def candidate(name: str, rate: float, accuracy: float | None, selected: bool = False) -> dict[str, Any]:
    diverged = accuracy is None
    curve = [0.5, None, None] if diverged else [0.5, accuracy - 0.1, accuracy]
    return {
        "name": name,
        "trained": name.partition(" ")[0],
        "learning_rate": rate,
        "val_accuracy": accuracy,
        "seconds": 75.0,
        "selected": selected,
        "diverged": diverged,
        "curves": {"epoch": [1.0, 2.0, 3.0], "train_loss": [2.0, 1.0, 0.05], "val_accuracy": curve},
    }


def make_record(names: tuple[str, ...] = NAMES, confusion: Any = CONFUSION) -> dict[str, Any]:
    """Returns a record with three seeds, which classify 27, 28 and 26 of 30 images correctly."""
    wrong = [(i, j) for i, row in enumerate(confusion) for j, n in enumerate(row) for _ in range(n) if i != j]
    return {
        "model": "resnetsmall8",
        "weights": {"file": "resnetsmall8.cifar10.safetensors", "sha256": "ab" * 32, "origin": "a <place>"},
        "data": {
            "path": "pictures/my images.zip",
            "class_names": list(names),
            "train": 80,
            "val": 20,
            "folds": 1,
            "test": int(np.sum(confusion)),
            "size_px": 32,
            "test_from": "a held-out fifth of each class",
            "train_per_class": [30 + i for i in range(len(names))],
            "test_per_class": [sum(row) for row in confusion],
        },
        "candidates": [
            candidate("head at 0.001", 1e-3, 0.85),
            candidate("top at 0.0001", 1e-4, 0.95, selected=True),
            candidate("top at 0.0003", 3e-4, None),
        ],
        "selected": "top at 0.0001",
        "recipe": {"augmentation.views": 8, "layers.decay": 0.9, "augmentation.flip.enabled": True},
        "seeds": [0, 1, 2],
        "delivered_seed": 0,
        "files": ["weights.safetensors", "weights.msgpack"],
        "layout": "torch",
        "test": {"accuracy": [27 / 30, 28 / 30, 26 / 30], "mean": 0.9, "half_width": 0.0828, "mean_per_class": 0.9},
        "refit_curves": [
            {"seed": seed, "epoch": [1.0, 2.0], "train_loss": [1.0, 0.01 + seed], "train_accuracy": [0.5, 1.0]}
            for seed in range(3)
        ],
        "confusion": confusion,
        "mistakes": [
            {
                "id": f"test/{names[i]}/{k}.jpg",
                "label": names[i],
                "predicted": names[j],
                "probability": 0.98 - k / 100,
                "label_probability": 0.01,
            }
            for k, (i, j) in enumerate(wrong[:24])
        ],
        "warnings": ["there are 20 images to select on & few to test on."],
        "seconds": {"selection": 30.0, "refit": 95.0, "total": 125.0},
        "versions": {"jaxft": "0.1.0", "jax": "0.10.2", "python": "3.11.9"},
        "device": "1 x cpu (cpu), 2 CPU cores",
        "command": "jaxft finetune --weights some.safetensors --data 'pictures/my images.zip' --out mine",
    }


def pictures_of(record: dict[str, Any], size_px: int = 32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {m["id"]: rng.integers(0, 256, (size_px, size_px, 3), np.uint8) for m in record["mistakes"]}


def page_of(record: dict[str, Any]) -> str:
    return finetune.render(record, pictures_of(record))


def many_classes() -> dict[str, Any]:
    """Returns a record of 40 classes with 4 test images each: 7 is predicted as 9 twice, 3 as 2 and 1 as 0 once."""
    confusion = 4 * np.eye(40, dtype=int)
    for truth, predicted, times in ((7, 9, 2), (3, 2, 1), (1, 0, 1)):
        confusion[truth, truth] -= times
        confusion[truth, predicted] += times
    return make_record(tuple(f"kind {i}" for i in range(40)), confusion.tolist())


def rows_of(text: str, section: str) -> list[str]:
    part = text[text.index(f'<section id="{section}">') :]
    return [text_of(row) for row in re.findall(r"<tr.*?</tr>", part[: part.index("</section>")], re.DOTALL)]


# --- the page -----------------------------------------------------------------------------------------------


def test_the_summary_has_the_numbers_computed_by_hand():
    text = page_of(make_record())
    summary = text_of(text[text.index('id="summary"') : text.index("</dl>")])
    # 27, 28, 26 of 30: s = 1/30, t(0.975, 2) = 4.3027, 4.3027 / 30 / sqrt(3) = 0.0828
    assert "Test accuracy 90.0 ± 8.3 % mean and 95 % Student t interval over 3 seeds" in summary
    assert "majority-class baseline: 33.3 %" in summary
    # Wilson: (0.9 + 0.06402 ± 1.96 sqrt(0.003 + 0.001067)) / 1.12805 = 0.7438, 0.9654
    assert "90.0 % seed 0; 95 % Wilson interval over 30 test images: 74.4 to 96.5 %" in summary
    assert "top at 0.0001 validation accuracy 95.0 %, the highest of 3 candidates" in summary
    assert "130 80 for training, 20 for validation, 30 for testing; 3 classes, resized to 32 px" in summary
    lead = "resnetsmall8, fine-tuned on 100 images of 3 classes, classifies 90.0 ± 8.3 % of 30 test images correctly."
    assert lead in text_of(text)
    assert "(a held-out fifth of each class) were not used for selection" in text_of(text)


def test_candidates_classes_and_confusions():
    text = page_of(make_record())
    assert rows_of(text, "training")[1:] == [
        "head at 0.001 85.0 head 0.001 1 min 15 s",
        "top at 0.0001 ★ 95.0 top 0.0001 1 min 15 s",
        "top at 0.0003 diverged top 0.0003 1 min 15 s",
    ]
    assert "One of 20 validation images is 5 percentage points" in text_of(text)
    assert rows_of(text, "confusion")[1:] == ["<b>bold</b> 8 2", "a|b_c 1 9", "cat 10"]
    assert rows_of(text, "classes")[1:] == [
        "0 <b>bold</b> 80.0 8 of 10 30 a|b_c (2)",
        "1 a|b_c 90.0 9 of 10 31 <b>bold</b> (1)",
        "2 cat 100.0 10 of 10 32",
    ]
    assert "All test images are classified correctly in 1 of 3 classes." in text_of(text)
    assert "Each class has 10 test images: one image is 10 percentage points." in text_of(text)


def test_the_command_and_the_recipe_are_on_the_page():
    text = text_of(page_of(make_record()))
    assert "--data 'pictures/my images.zip' --out mine" in text
    assert "augmentation.views 8 layers.decay 0.9 augmentation.flip.enabled true" in text
    assert "seed 0: 90.0 %, seed 1: 93.3 %, seed 2: 86.7 %" in text
    assert "selection 30 s, refit 1 min 35 s, total 2 min 05 s" in text
    assert "jaxft predict PICTURES --weights weights.safetensors" in text
    assert "Warning: there are 20 images to select on & few to test on." in text


def test_mistakes_are_images_with_names_and_probabilities(tmp_path):
    record = make_record()
    pictures = pictures_of(record)
    text = finetune.render(record, pictures)
    captions = [text_of(caption) for caption in re.findall(r"<figcaption><span.*?</figcaption>", text)]
    assert captions[0] == "predicted a|b_c, 98.0 % label <b>bold</b>, 1.0 % test/<b>bold</b>/0.jpg"
    assert captions[2] == "predicted <b>bold</b>, 96.0 % label a|b_c, 1.0 % test/a|b_c/2.jpg"
    uris = [attrs["src"] for tag, attrs in Tags(text).tags if tag == "img"]
    for mistake, uri in zip(record["mistakes"], uris, strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
        np.testing.assert_array_equal(np.asarray(shown), pictures[mistake["id"]])
    assert "All wrong predictions, highest probability first. Each caption has the predicted class" in text_of(text)


def test_a_large_image_is_a_jpeg_with_small_errors():
    ramp = np.linspace(0, 255, 224)
    image = np.stack([*np.meshgrid(ramp, ramp), np.full((224, 224), 80.0)], axis=-1).astype(np.uint8)
    kind, _, content = finetune.data_uri(image).partition(",")
    assert kind == "data:image/jpeg;base64" and len(content) < 20_000
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))), np.float64)
    assert np.abs(shown - image).mean() < 2


def test_many_classes_have_a_matrix_without_names_and_a_table_of_pairs():
    text = page_of(many_classes())
    assert '<table class="matrix"' not in text and "Confusion matrix of all classes" in text
    confused = ["kind 7 kind 9 2 of 4", "kind 1 kind 0 1 of 4", "kind 3 kind 2 1 of 4"]
    assert rows_of(text, "confusion")[1:] == confused
    rows = rows_of(text, "classes")
    assert rows[1:4] == [
        "7 kind 7 50.0 2 of 4 37 kind 9 (2)",
        "1 kind 1 75.0 3 of 4 31 kind 0 (1)",
        "3 kind 3 75.0 3 of 4 33 kind 2 (1)",
    ]
    assert len(rows) == 1 + 12 + 1 + 40  # the worst, and all
    assert "All test images are classified correctly in 37 of 40 classes." in text_of(text)


def test_a_class_without_test_images_has_no_accuracy():
    record = make_record(confusion=[[0, 0, 0], [1, 9, 0], [0, 5, 15]])
    assert [row.split()[:3] for row in rows_of(page_of(record), "classes")[1:]] == [
        ["2", "cat", "75.0"],
        ["1", "a|b_c", "90.0"],
        ["0", "<b>bold</b>", "–"],
    ]
    text = text_of(page_of(record))
    assert "The classes with the highest accuracy are a|b_c (90.0 %), cat (75.0 %)." in text
    assert "A class has 10 to 20 test images: one image is 5 to 10 percentage points." in text


def test_colors_follow_the_share_of_the_row_and_numbers_are_legible():
    (right, wrong, nothing), *_ = colored_matrix([[6, 4, 0], [0, 10, 0], [0, 0, 10]])
    # Of f4f5f2, 0.4 and 0b5c8a, 0.6; then 1 - sqrt(0.4) = 0.3675 and d55e00, 0.6325.
    assert (right.color, wrong.color, nothing.color) == ("#6899b4", "#e09559", "#f4f5f2")
    assert luminance(np.array([0.5, 0.5, 0.5])) == pytest.approx(0.21404, abs=1e-5)
    for share in range(101):
        row = colored_matrix([[share, 100 - share, 0], [0, 1, 0], [0, 0, 1]])[0]
        for cell in row:
            dark, light = sorted(luminance(np.array(to_rgb(c))) for c in (cell.color, cell.ink))
            assert (light + 0.05) / (dark + 0.05) > 3  # WCAG 2.2, 1.4.11


def test_one_seed_one_candidate_and_no_mistake():
    record = make_record(confusion=[[10, 0, 0], [0, 10, 0], [0, 0, 10]])
    record |= {"seeds": [4], "delivered_seed": 4, "candidates": record["candidates"][1:2], "warnings": []}
    record["test"] = {"accuracy": [1.0], "mean": 1.0, "half_width": None, "mean_per_class": 1.0}
    record["refit_curves"] = [{"seed": 4, "epoch": [], "train_loss": [], "train_accuracy": []}]
    text = text_of(page_of(record))
    # Wilson's lower end for n of n is n / (n + z^2), here 30 / (30 + 1.96^2).
    assert "Test accuracy 100.0 % one seed; 95 % Wilson interval over 30 test images: 88.6 to 100.0 %" in text
    assert "There was only one candidate, top at 0.0001." in text
    assert "All test images are classified correctly." in text
    assert "Retraining" not in text
    assert "lowest accuracy" not in model_card(record) and "mean and 95 %" not in model_card(record)
    assert "test accuracy: 100.0 % (95 % Wilson interval 88.6 to 100.0 %; 30 test images)" in summary_lines(record)


def test_an_interval_over_seeds_ends_at_100():
    record = make_record()
    record["test"] |= {"accuracy": [29 / 30, 1.0, 29 / 30], "mean": 0.9778, "half_width": 0.0478}
    assert "Test accuracy 97.8 (93.0 to 100.0) % mean and 95 % Student t interval over 3 seeds" in text_of(
        page_of(record)
    )


def head(name: str, accuracy: float, selected: bool = False) -> dict[str, Any]:
    curves = {"epoch": [0.0], "train_loss": [0.3], "val_accuracy": [accuracy]}
    return candidate(name, 0.0, accuracy, selected) | {"learning_rate": None, "curves": curves}


def caption_of(candidates: list[dict[str, Any]]) -> str:
    text = page_of(make_record() | {"candidates": candidates})
    return text_of(next(c for c in re.findall(r"<figcaption>.*?</figcaption>", text, re.DOTALL) if "candidate" in c))


def test_the_caption_describes_the_figure():
    tuned = candidate("top at 0.0001", 1e-4, 0.95, selected=True)
    assert caption_of([tuned, candidate("top at 0.0003", 3e-4, 0.9)]) == (
        "Validation accuracy of each candidate by epoch. The bold line is the selected candidate."
    )
    heads = [head("head with decay 0.01", 0.9), head("head with decay 0.03", 0.9)]
    assert caption_of([tuned, *heads]) == (
        "Validation accuracy of each candidate by epoch. The bold line is the selected candidate. Dots at epoch 0 are "
        "linear heads, fitted to all training images at once; dots of almost equal accuracy are side by side."
    )
    selected = [candidate("top at 0.0001", 1e-4, 0.85), heads[0] | {"selected": True}, heads[1]]
    assert "by epoch. The large dot is the selected candidate. Dots at epoch 0 are" in caption_of(selected)
    assert caption_of([heads[0] | {"selected": True}, heads[1]]) == (
        "Validation accuracy of each candidate. The large dot is the selected candidate. Dots are linear heads, fitted "
        "to all training images at once; dots of almost equal accuracy are side by side."
    )


def dots_of(candidates: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[float, float]], Any]:
    """Returns the positions of the dots of the figure in points, and its axes."""
    figures = []
    monkeypatch.setattr("jaxft.report.figures.finetune.to_svg", lambda figure, *_: figures.append(figure))
    selection_curves("s", candidates, ["#000000"] * len(candidates))
    figures[0].draw_without_rendering()
    (axes,) = figures[0].axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert sorted(line.get_markersize() for line in lines)[-1] == 8 or not any(c["selected"] for c in candidates)
    scale = 72 / figures[0].dpi
    return [tuple(scale * axes.transData.transform((line.get_xdata()[0], line.get_ydata()[0]))) for line in lines], axes


@pytest.mark.parametrize("with_epochs", [True, False])
def test_no_dot_hides_another(with_epochs, monkeypatch):
    heads = [head(f"head {i}", accuracy, i == 1) for i, accuracy in enumerate((0.9, 0.9, 0.9, 0.905, 0.8))]
    dots, axes = dots_of([*heads, *[candidate("top", 1e-3, 0.95)] * with_epochs], monkeypatch)
    assert len(dots) == 5
    for (x1, y1), (x2, y2) in itertools.combinations(dots, 2):
        assert math.hypot(x1 - x2, y1 - y2) >= 6
    assert axes.get_xlabel() == ("epoch" if with_epochs else "linear heads")
    assert (len(axes.get_xticks()) > 0) == with_epochs
    left, right = axes.get_xlim()
    assert all(left < x < right for line in axes.lines for x in line.get_xdata()[:1])


def test_dots_that_are_close_get_columns():
    assert side_by_side([0.5, 0.5, 0.9, 0.55, 0.5], 0.1) == [0, 1, 0, -1, 2]
    assert side_by_side([0.1, 0.3, 0.2], 0.09) == [0, 0, 0] and side_by_side([], 0.1) == []


def test_error_bars_end_at_0_and_100():
    np.testing.assert_allclose(whisker(Interval(0.97, 0.05, 3)), [[5], [3]])
    np.testing.assert_allclose(whisker(Interval(0.02, 0.05, 3)), [[2], [5]])
    assert whisker(Interval(0.97, math.nan, 1)) is None


def test_labels_of_the_soup_figure_name_the_factors():
    factors = ["training.regularization.l2_sp.strength", "training.layers.decay", "training.optimizer.momentum"]
    levels = [["0", "1", "0.9"], ["0", "0.5", "0.9"]]
    assert legend_labels(factors, levels) == ["layers decay 1", "layers decay 0.5"]
    assert legend_labels(factors[:2], [["0", "1"], ["0.1", "0.5"]]) == [
        "l2 sp 0, layers decay 1",
        "l2 sp 0.1, layers decay 0.5",
    ]


# --- the page as a file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [make_record(), many_classes()], ids=["few", "many"])
def test_the_file_is_complete_and_reproducible_and_never_contains_nan(tmp_path, record):
    json.dumps(record, allow_nan=False)
    before = copy.deepcopy(record)
    for name in ("one.html", "two.html"):
        write_finetune_page(tmp_path / name, record, pictures_of(record))
    assert record == before
    text = (tmp_path / "one.html").read_text()
    assert text == (tmp_path / "two.html").read_text()
    assert "nan" not in re.findall(r"[a-z]+", text_of(text).lower())
    tags = Tags(text).tags
    assert not {"script", "b"} & {tag for tag, attrs in tags if "style" not in attrs}
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    references = [attrs[name] for _, attrs in tags for name in ("href", "xlink:href", "src") if attrs.get(name)]
    assert {r for r in references if not r.startswith("data:")} <= {f"#{name}" for name in ids}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH to open the page in")
@pytest.mark.parametrize("width", [1400, 360])
@pytest.mark.parametrize("record", [make_record(), many_classes()], ids=["few", "many"])
def test_a_browser_shows_everything(tmp_path, record, width):
    write_finetune_page(tmp_path / "report.html", record, pictures_of(record))
    measured, console, requested = measure(tmp_path, width)
    assert console == [] and sorted(requested) == ["/probe.html", "/report.html"]
    assert len(measured["pictures"]) == 2 + (len(record["confusion"]) > 30)
    assert all(p["width"] > 150 and p["height"] > 100 and p["ink"] > 50 for p in measured["pictures"]), measured[
        "pictures"
    ]
    assert measured["scrollWidth"] <= width
    assert measured["outside"] == [] and measured["cut"] == []


# --- the model card and the summary -------------------------------------------------------------------------


def test_metrics_of_the_record_are_on_the_page_and_the_card(request):
    METRICS.register("errors", Metric(lambda labels, predictions: 3.0, title="mistakes", is_share=False))
    request.addfinalizer(lambda: METRICS.entries.pop("errors"))
    record = make_record()
    text = text_of(page_of(record))
    assert "Mean over the classes: 90.0 %." in text and "Mistakes:" not in text
    record["test"] |= {"mean_per_class": 0.875, "errors": 3.0}
    assert "Mean over the classes: 87.5 %. Mistakes: 3." in text_of(page_of(record))
    assert "| mean over the classes | 87.5 % |\n| mistakes | 3 |\n| majority" in model_card(record)


def test_the_card_has_front_matter_and_describes_the_training():
    record = make_record()
    _, front, body = model_card(record).split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "unknown" and metadata["pipeline_tag"] == "image-classification"
    assert {"jax", "flax", "pytorch", "resnetsmall8"} <= set(metadata["tags"]) and metadata["metrics"] == ["accuracy"]
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9}] and result["dataset"]["name"] == "my images"
    assert "# resnetsmall8 on my images\n" in body
    assert (
        "30 test images is **90.0 %**; over 3 seeds, the same procedure has an accuracy of 90.0 ± 8.3 % (mean and"
        in body
    )
    assert "| **top at 0.0001** (selected) | top | 0.0001 | 95.0 % |\n" in body
    assert "| top at 0.0003 | top | 0.0003 | diverged |\n" in body
    assert "80 images for training, 20 for validation, 30 for testing" in body
    assert "over test images (Wilson) | 74.4 to 96.5 % |" in body
    assert "| seed 2 | 86.7 % |" in body and "| layers.decay | 0.9 |" in body
    assert f"sha256 `{'ab' * 32}`" in body
    assert model_card(record | {"license": "cc-by-4.0"}).startswith('---\nlicense: "cc-by-4.0"\n')


def test_names_are_escaped_on_the_card():
    body = model_card(make_record())
    assert "| 0 | \\<b\\>bold\\</b\\> | 30 | 10 | 80.0 % |\n| 1 | a\\|b_c | 31 | 10 | 90.0 % |\n" in body
    assert "(a \\<place\\>; sha256" in body
    assert "are: \\<b\\>bold\\</b\\> (8 of 10 correct; most often confused with a\\|b_c), a\\|b_c (9 of 10" in body
    assert "\n- there are 20 images to select on \\& few to test on.\n" in body
    rows = [re.findall(r"(?<!\\)\|", line) for line in body.splitlines() if line.startswith("|")]
    assert {len(bars) - 1 for bars in rows} == {2, 4, 5}  # columns of accuracy and recipe, candidates, classes


def test_many_classes_are_a_list_in_the_order_of_the_outputs():
    body = model_card(many_classes())
    assert "<summary>All 40 classes, in the order of the outputs</summary>\n\nkind 0, kind 1, kind 2, " in body


def test_the_card_describes_the_preprocessing_if_it_is_recorded():
    preprocessing = {"size_px": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "value_range": 1.0}
    record = make_record() | {"preprocessing": preprocessing | {"channel_order": "bgr"}}
    assert "with mean 0.5, 0.4, 0.3 and std 0.2, 0.2, 0.2, with channels in the order bgr.\n" in model_card(record)


def test_the_card_has_pytorch_code_if_the_file_has_the_layout_of_pytorch():
    record = make_record()
    code = 'network.load_state_dict(load_file("weights.safetensors"))  # resnetsmall8 in PyTorch, with 3 outputs'
    assert code in model_card(record)
    pth = model_card(record | {"files": ["weights.pth", "weights.msgpack"]})
    assert 'torch.load("weights.pth", weights_only=True)' in pth
    for other in ({"layout": "keras"}, {"files": ["weights.msgpack"]}):
        assert "PyTorch" not in model_card(record | other)


@pytest.mark.slow
def test_the_commands_and_the_code_of_the_card_run(tmp_path, monkeypatch, capsys):
    model = create_model("resnetsmall8", num_classes=3)
    variables = draw_variables(model, 32)
    for name in ("weights.safetensors", "weights.msgpack"):
        save_weights(tmp_path / name, model, variables)
    monkeypatch.chdir(tmp_path)
    images = np.zeros((2, 32, 32, 3), np.uint8)
    Image.fromarray(images[0]).save("black.png")
    code = dict(re.findall(r"```(sh|python)\n(.*?)```", model_card(make_record()), re.DOTALL)[:2])
    known: dict[str, Any] = {"images": images}
    exec(code["python"], known)
    assert known["logits"].shape == (2, 3)
    np.testing.assert_allclose(known["logits"][0], known["logits"][1], rtol=1e-5)
    assert main(code["sh"].replace("PICTURES", "black.png").split()[1:]) == 0
    assert "black.png" in capsys.readouterr().out


def test_the_summary_is_a_table_the_accuracy_and_the_files():
    assert summary_lines(make_record(), Path("mine")) == [
        "candidate        learning rate  validation %        time",
        "head at 0.001            0.001          85.0  1 min 15 s",
        "top at 0.0001 *         0.0001          95.0  1 min 15 s",
        "top at 0.0003           0.0003      diverged  1 min 15 s",
        "* selected on 20 validation images, then retrained on all 100 training and validation images",
        "",
        "test accuracy: 90.0 ± 8.3 % (mean and 95 % Student t interval over 3 seeds; 30 test images)",
        "saved network: seed 0, test accuracy 90.0 %",
        "  mine/weights.safetensors",
        "  mine/weights.msgpack",
        "  mine/report.html",
        "  mine/MODEL_CARD.md",
    ]


def test_markdown_is_escaped():
    from jaxft.report.template import markdown_text

    assert markdown_text("a_b __x__ *c*\n`d` $e$") == "a_b \\_\\_x\\_\\_ \\*c\\* \\`d\\` \\$e\\$"
    assert html.unescape(markdown_text("R&amp;D")) == "R\\&D"
