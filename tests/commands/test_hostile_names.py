"""Names of classes, files and tensors are data: whatever they contain, they are printed and written as text."""

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from helpers import draw_variables
from PIL import Image

from jaxft.cli import main
from jaxft.core.csv_files import csv_cell, row_writer, write_table
from jaxft.core.events import Warned
from jaxft.core.tables import format_table
from jaxft.core.text import escaped, shown
from jaxft.models import create_model
from jaxft.tracking.console import Progress
from jaxft.weights import Manifest, save_weights

# Valid names of folders on Linux: ANSI and OSC sequences, a line break and a tab, the reversal of text,
# HTML, Markdown, a formula, markup of rich, and letters of other scripts.
NAMES = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07bell",
    "line\nbreak\ttab\rreturn",
    "\u202egnp.exe",
    "<script>alert(1)<&",
    "=cmd|' C'!A0",
    "+1",
    "-1",
    "@sum",
    "[red]a[slash]",
    "| a | `b` | **c**",
    "猫",
    "قطة",
]
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder of images with one folder for each hostile name, with a training and a test split."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    for subset, count in (("train", 3), ("test", 1)):
        for name in NAMES:
            (folder / subset / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / subset / name / f"{name[:4]}{i}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns a weight file whose classes have the hostile names."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    model = create_model("resnetsmall8", len(NAMES))
    manifest = Manifest(path.name, "", model.architecture, model.preprocessing, tuple(NAMES))
    save_weights(path, model, draw_variables(model, 32), manifest)
    return str(path)


def assert_text(text):
    """Asserts that a text has no character that commands a terminal, and is valid Unicode."""
    assert FORBIDDEN.search(text) is None, FORBIDDEN.search(text)
    text.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 猫 👩", "plain é 猫 👩"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202eabc", "\\u202eabc"),
        ("\udcff", "\\udcff"),
    ],
)
def test_text_is_escaped(text, expected):
    assert escaped(text) == expected
    assert format_table(["name"], [[text]], (), ruled=False) == f"name\n{expected}"


def test_line_breaks_are_kept_where_they_are_asked_for():
    assert escaped("a\n\x1bb", keep="\n") == "a\n\\x1bb"


def test_wrong_values_are_shown_short():
    assert shown("x" * 100) == "'" + "x" * 56 + "..."
    assert shown(10**5000) == "an integer of 16,610 bits"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-a", "'-a"),
        ("@a", "'@a"),
        ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"),
        ("a=b", "a=b"),
        ("", ""),
        (-1.5, -1.5),
        (-2, -2),
        (None, None),
    ],
)
def test_cells_of_text_are_no_formulas(value, cell):
    assert csv_cell(value) == cell


def test_a_table_keeps_its_numbers():
    table = pd.DataFrame({"=a": [-1.5, np.nan], "b": ["-x", None], "c": ["-1", -1]})
    file = io.StringIO()
    write_table(table, file)
    assert file.getvalue() == "'=a,b,c\n-1.5,'-x,'-1\n,,-1\n"
    assert table.columns[0] == "=a" and table["b"][0] == "-x"


def test_rows_keep_their_numbers():
    file = io.StringIO()
    row_writer(file)(["=a", -0.25, "b,c"])
    assert file.getvalue() == '\'=a,-0.25,"b,c"\r\n'


def test_data_check(folder, capsys):
    assert main(["data", "check", str(folder)]) in (0, 1)
    out, err = capsys.readouterr()
    assert_text(out.replace("\n", ""))
    assert_text(err.replace("\n", ""))
    main(["data", "check", str(folder), "--json"])
    assert set(json.loads(capsys.readouterr().out)["classes"]) == set(NAMES)


def test_predict(folder, weights, tmp_path, capsys):
    assert main(["predict", str(folder / "test"), "--weights", weights, "--top", "2"]) == 0
    out, _ = capsys.readouterr()
    assert_text(out.replace("\n", ""))
    assert len(out.splitlines()) == 1 + 2 * len(NAMES) + 1  # a header, two rows for each image, the accuracy
    path = tmp_path / "predictions.csv"
    assert main(["predict", str(folder / "test"), "--weights", weights, "--csv", str(path)]) == 0
    text = path.read_bytes().decode()
    assert_text(text.replace("\r\n", ""))
    rows = list(csv.reader(io.StringIO(text)))[1:]
    assert {row[2] for row in rows} <= {csv_cell(name) for name in NAMES}
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)
    assert pd.read_csv(path)["probability"].dtype == np.float64


def test_weights_inspect(tmp_path, weights, capsys):
    assert main(["weights", "inspect", weights, "--tensors"]) == 0
    assert_text(capsys.readouterr().out.replace("\n", ""))
    np.savez(tmp_path / "odd.npz", **{name.replace("/", "_"): np.zeros(2, np.float32) for name in NAMES})
    assert main(["weights", "inspect", str(tmp_path / "odd.npz"), "--tensors"]) in (0, 2)
    out, err = capsys.readouterr()
    assert_text((out + err).replace("\n", ""))


def test_errors_and_progress(capsys):
    assert main(["weights", "inspect", "\x1b[31m\nmissing.pth"]) == 2
    with Progress() as progress:
        progress(Warned("\x1b[2Jclass\nname"))
    err = capsys.readouterr().err
    assert_text(err.replace("\n", ""))
    assert err.endswith("warning: \\x1b[2Jclass\\nname\n") and len(err.splitlines()) == 2


@pytest.mark.slow
def test_finetune_and_its_pages(folder, tmp_path, capfd):
    model = create_model("toy", num_classes=4)
    save_weights(tmp_path / "toy.pth", model, draw_variables(model, 8))
    out = tmp_path / "out"
    words = ["--weights", tmp_path / "toy.pth", "--data", folder, "--out", out, "--seeds", 1, "--size-px", 8]
    assert main(["finetune", *map(str, words)]) == 0
    printed = capfd.readouterr()
    assert_text((printed.out + printed.err).replace("\n", ""))
    assert "missing from font" not in printed.err
    for name in ("report.html", "README.md", "events.jsonl"):
        for file in out.rglob(name):
            assert_text(file.read_text().replace("\n", ""))
            assert "<script>alert" not in file.read_text() or file.name == "events.jsonl"
