"""The page, the model card and the printed summary of `jaxft finetune`, from its record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.core.files import explained_os_errors, replacing
from jaxft.core.tables import format_table
from jaxft.core.text import duration, percent, percent_interval, plural
from jaxft.report.colors import arm_colors
from jaxft.report.figures.confusion import classes_per_cell, coarse_matrix, colored_matrix
from jaxft.report.figures.finetune import data_uri, has_epochs, refit_curves, selection_curves
from jaxft.report.finetune_record import (
    CARD,
    MAX_NAMED_CLASSES,
    PAGE,
    best_text,
    class_results,
    confused_pairs,
    image_effect,
    summary_values,
)
from jaxft.report.template import render_template

MAX_ROWS = 12  # of the tables of classes and of confused pairs


def write_finetune_page(path: Path, record: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> None:
    """Writes the page of a fine-tuning to `path`. Equal arguments give identical bytes.

    Args:
      path: the HTML file to write.
      record: the record in `finetune.json`.
      images: [h, w, 3] uint8, the image of each mistake in the record, by its id.

    Raises:
      UserError: if the file cannot be written.
    """
    page = render(record, images)
    with explained_os_errors(path), replacing(path) as temporary:
        temporary.write_bytes(page.encode())


def render(record: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> str:
    """Returns the HTML of the page; `images` are [h, w, 3] uint8 by id, as in `write_finetune_page`."""
    classes = class_results(record)
    few_classes = len(classes) <= MAX_NAMED_CLASSES
    colors = arm_colors(len(record["candidates"]))
    pairs = confused_pairs(classes)
    return render_template(
        "finetune.html",
        record=record,
        **summary_values(record),
        candidates=list(zip(record["candidates"], colors)),
        has_epochs=has_epochs(record["candidates"]),
        has_dots=any(len(candidate["curves"]["epoch"]) == 1 for candidate in record["candidates"]),
        selection_svg=selection_curves("selection", record["candidates"], colors),
        refit_svg=refit_curves("refit", record["refit_curves"], record["delivered_seed"]),
        refits=list(zip(record["refit_curves"], arm_colors(len(record["refit_curves"])))),
        matrix=list(zip(record["data"]["class_names"], colored_matrix(record["confusion"]))) if few_classes else None,
        matrix_svg=None if few_classes else coarse_matrix("confusion", np.array(record["confusion"])),
        classes_per_cell=classes_per_cell(len(classes)),
        pairs=pairs,
        shown_pairs=pairs[:MAX_ROWS],
        classes=classes,
        shown=classes if few_classes else [c for c in classes if c.num_test][:MAX_ROWS],
        best=best_text(classes),
        image_effect=image_effect(classes),
        mistakes=[(mistake, data_uri(images[mistake["id"]])) for mistake in record["mistakes"]],
        num_wrong=sum(c.num_test - c.num_correct for c in classes),
    )


def model_card(record: Mapping[str, Any]) -> str:
    """Returns the model card: Markdown with front matter for the Hugging Face Hub."""
    classes = class_results(record)
    return render_template(
        "model_card.md",
        record=record,
        **summary_values(record),
        license=record.get("license", "unknown"),
        classes=sorted(classes),
        has_class_table=len(classes) <= MAX_NAMED_CLASSES,
        hardest=[c for c in classes if c.accuracy < 1][:5],
    )


def summary_lines(record: Mapping[str, Any], folder: str | Path = "") -> list[str]:
    """Returns the lines that `jaxft finetune` prints at the end: candidates, test accuracy, and files in `folder`."""
    values, data = summary_values(record), record["data"]
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
    low, high = map(percent, values["saved_interval"])
    interval = f"95 % Wilson interval {low} to {high} %; "
    if values["has_interval"]:
        interval = f"mean and 95 % Student t interval over {plural(values['test'].num_values, 'seed')}; "
    return [
        *format_table(header, rows, numbers=range(1, 4), ruled=False).splitlines(),
        f"* selected on {plural(values['num_val'], 'validation image')}, "
        f"then retrained on all {plural(values['num_train_val'], 'training and validation image')}",
        "",
        f"test accuracy: {percent_interval(values['test'])} % ({interval}{plural(data['test'], 'test image')})",
        f"saved network: seed {record['delivered_seed']}, test accuracy {percent(values['saved_accuracy'])} %",
        *(f"  {Path(folder) / name}" for name in (*record["files"], PAGE, CARD)),
    ]
