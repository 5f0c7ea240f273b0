"""Names on pages and in figures: any text is shown as text, also in letters that the font of the figures lacks."""

import re
import warnings

import numpy as np
from matplotlib.figure import Figure
from report.test_finetune_report import make_record

from jaxft.report.figures import style
from jaxft.report.figures.svg import to_svg
from jaxft.report.finetune import model_card, render
from jaxft.report.labels import level_labels
from jaxft.report.levels import level_key

HOSTILE = ("\x1b]0;t\x07<script>alert(1)</script>", "| \u202egnp |\n# `x`", "half \udcff")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def test_pages_show_names_as_text():
    record = make_record(HOSTILE)
    images = {mistake["id"]: np.zeros((4, 4, 3), np.uint8) for mistake in record["mistakes"]}
    page, card = render(record, images), model_card(record)
    for text in (page, card):
        assert CONTROL.search(text) is None
        assert "<script>" not in text
        text.encode()
    assert "\\x1b]0;t\\x07&lt;script&gt;" in page and "half \\udcff" in page
    assert "\n# " + chr(96) not in card  # a line break of a name begins no heading


def test_labels_of_levels_are_escaped():
    assert level_labels(["a\x1b[1m", 0.1])[level_key("a\x1b[1m")] == "a\\x1b[1m"


def draw(label):
    with style.style():
        figure = Figure(figsize=(2, 2))
        figure.add_subplot().set_title(label)
        return to_svg(figure, "names", "a title")


def test_letters_that_the_font_lacks_are_text_and_warn_once(capsys):
    style._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figures = [draw("a 猫 <b>"), draw("犬"), draw("plain")]
    assert caught == []
    assert re.search(r"<text[^>]*>a 猫 &lt;b&gt;</text>", figures[0]) and "犬</text>" in figures[1]
    assert "<text" not in figures[2]  # outlines, equal on all machines
    assert capsys.readouterr().err.count("warning: ") == 1
