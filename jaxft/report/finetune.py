"""The page and the model card of a network that was fine-tuned once: its record, laid out by the templates beside."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.core.files import explained_os_errors, replacing
from jaxft.core.tables import format_table
from jaxft.core.text import duration, percent, percent_interval, plural
from jaxft.report.colors import arm_colors
from jaxft.report.figures.confusion import classes_in_a_cell, coarse_matrix, matrix_of
from jaxft.report.figures.finetune import data_uri, refit_curves, selection_curves
from jaxft.report.finetune_record import MOST_IN_MATRIX, best_text, classes_of, facts, image_worth, pairs_of
from jaxft.report.template import render_template

PAGE, CARD = "report.html", "MODEL_CARD.md"

MOST_LISTED = 12


def write_finetune_page(path: Path, record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> None:
    """Writes the page of `record` to `path`; the same record and pictures give the same bytes.

    Args:
      record: what `jaxft finetune` keeps as `finetune.json`.
      pictures: [h, w, 3] uint8 of each of the record's mistakes, by its id.
    """
    page = render(record, pictures)
    with explained_os_errors(path), replacing(path) as temporary:
        temporary.write_bytes(page.encode())


def render(record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> str:
    """Returns the whole page as text."""
    classes = classes_of(record)
    small = len(classes) <= MOST_IN_MATRIX
    colors = arm_colors(len(record["candidates"]))
    pairs = pairs_of(classes)
    return render_template(
        "finetune.html",
        record=record,
        **facts(record),
        candidates=list(zip(record["candidates"], colors)),
        selection_svg=selection_curves("selection", record["candidates"], colors),
        refit_svg=refit_curves("refit", record["refit_curves"], record["delivered_seed"]),
        refits=list(zip(record["refit_curves"], arm_colors(len(record["refit_curves"])))),
        matrix=list(zip(record["data"]["class_names"], matrix_of(record))) if small else None,
        matrix_svg=None if small else coarse_matrix("confusion", np.array(record["confusion"])),
        classes_in_a_cell=classes_in_a_cell(len(classes)),
        pairs=pairs,
        shown_pairs=pairs[:MOST_LISTED],
        classes=classes,
        shown=classes if small else [c for c in classes if c.num_test][:MOST_LISTED],
        best=best_text(classes),
        image_worth=image_worth(classes),
        mistakes=[(mistake, data_uri(pictures[mistake["id"]])) for mistake in record["mistakes"]],
        num_wrong=sum(c.num_test - c.num_right for c in classes),
    )


def model_card(record: Mapping[str, Any]) -> str:
    """Returns the model card, Markdown with the front matter that the Hugging Face Hub reads."""
    classes = classes_of(record)
    return render_template(
        "model_card.md",
        record=record,
        **facts(record),
        license=record.get("license", "unknown"),
        classes=sorted(classes),
        named=len(classes) <= MOST_IN_MATRIX,
        hardest=[c for c in classes if c.accuracy < 1][:5],
    )


def summary_lines(record: Mapping[str, Any], folder: str | Path = "") -> list[str]:
    """Returns what the command prints at its end: candidates, test accuracy, and the files, which are in `folder`."""
    known, data = facts(record), record["data"]
    rows = []
    for candidate in record["candidates"]:
        mark = " *" if candidate["selected"] else ""
        outcome = "diverged" if candidate["diverged"] else percent(candidate["val_accuracy"])
        rate = candidate["learning_rate"]
        rows.append(
            (
                candidate["name"] + mark,
                "–" if rate is None else f"{rate:g}",
                outcome,
                duration(candidate["seconds"], precise=True),
            )
        )
    header = ["candidate", "learning rate", "validation %", "time"]
    over = f"mean and 95 % interval over {plural(known['test'].num_values, 'seed')}; " if known["has_interval"] else ""
    return [
        *format_table(header, rows, numbers=range(1, 4), ruled=False).splitlines(),
        f"* selected on {plural(known['num_judged'], 'validation image')}, "
        f"then trained again on all {known['num_learned']:,}",
        "",
        f"test accuracy: {percent_interval(known['test'])} % ({over}{plural(data['test'], 'image')})",
        f"delivered: seed {record['delivered_seed']}, {percent(known['delivered'])} %",
        *(f"  {Path(folder) / name}" for name in (*record["files"], PAGE, CARD)),
    ]
