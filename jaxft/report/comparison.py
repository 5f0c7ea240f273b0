"""The page and the tables of `jaxft compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from jaxft.analysis.comparison import Activations, Comparison
from jaxft.analysis.measures import MEASURES
from jaxft.core.csv_files import write_table
from jaxft.core.files import explained_os_errors, replacing
from jaxft.report.colors import arm_colors
from jaxft.report.figures.activations import feature_map, filter_sheet, saliency_image, similarity_map
from jaxft.report.figures.finetune import data_uri
from jaxft.report.figures.maps import Column, Scale, change_map
from jaxft.report.template import render_fragment, render_template

PAGE = "report.html"
CHANGES, FILTERS, PAIRS, PREDICTIONS = "changes.csv", "filters.csv", "pairs.csv", "predictions.csv"
SIMILARITY, CHANNELS = "similarity.csv", "channels.csv"
MAPS = ("relative_l2", "sign_flips")  # measures with a map by layer
MAX_CHANGED_PREDICTIONS = 100  # rows of the table
SHIFTS = ("scale", "bias", "mean", "log_variance")


def write_comparison(folder: Path, comparison: Comparison) -> list[Path]:
    """Writes the page and the tables of a comparison to a folder, and returns their paths.

    Raises:
      UserError: a file cannot be written.
    """
    tables = {CHANGES: comparison.changes, FILTERS: comparison.filters, PAIRS: comparison.pairs}
    if comparison.predictions is not None:
        tables[PREDICTIONS] = comparison.predictions
    if comparison.activations is not None:
        tables |= {SIMILARITY: comparison.activations.similarity, CHANNELS: comparison.activations.units}
    with explained_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            with replacing(folder / name) as temporary:
                write_table(table, temporary)
        with replacing(folder / PAGE) as temporary:
            temporary.write_bytes(render(comparison).encode())
    return [folder / name for name in (PAGE, *tables)]


def render(comparison: Comparison) -> str:
    """Returns the HTML of the page."""
    labels = comparison.labels[1:]
    columns = [Column(label, color) for label, color in zip(labels, arm_colors(len(labels)), strict=True)]
    changes = comparison.changes
    layers = _table(changes, "layer", "relative_l2", labels)
    return render_template(
        "comparison.html",
        comparison=comparison,
        labels=labels,
        totals=_totals(changes, labels),
        num_layers=len(layers),
        maps=[layer_map(comparison, columns, measure) for measure in MAPS],
        shifts=_batch_norm_rows(changes, labels),
        filters=[(label, list(rows.itertuples())) for label, rows in comparison.filters.groupby("network", sort=False)],
        pair_maps=pair_maps(comparison, columns),
        agreement=[] if comparison.agreement is None else comparison.agreement.to_dict("records"),
        activations=_activations(comparison),
        changed=_changed_predictions(comparison),
        max_changed=MAX_CHANGED_PREDICTIONS,
    )


def layer_map(comparison: Comparison, columns: Sequence[Column], measure: str) -> dict[str, Any]:
    """Returns the map of a measure by layer and network, with the text of its caption."""
    table = _table(comparison.changes, "layer", measure, comparison.labels[1:])
    entry = MEASURES[measure]
    label = entry.value.label or measure.replace("_", " ")
    scale = Scale(label, "unchanged", f"{label} by layer and network")
    svg = change_map(f"map-{measure}", columns, list(table.index), table.to_numpy(float), scale)
    return {"svg": svg, "help": entry.help}


def pair_maps(comparison: Comparison, columns: Sequence[Column]) -> list[tuple[Markup, str]]:
    """Returns the maps of the pairs of networks: the distance, and the cosine of the changes; empty without pairs."""
    pairs = comparison.pairs[comparison.pairs["name"] == "total"]
    maps = []
    for measure, same, label, caption in (
        ("distance", 0.0, "L2 distance", "L2 distance between the weights of each pair of networks."),
        (
            "change_cosine",
            1.0,
            "cosine of changes",
            "Cosine of the changes from the reference: 1 for the same direction, 0 for unrelated directions.",
        ),
    ):
        rows = pairs[pairs["measure"] == measure]
        if len(rows):
            names = [column.heading for column in columns]
            square = np.full((len(names), len(names)), same)
            for first, second, value in rows[["first", "second", "value"]].to_numpy():
                i, j = names.index(first), names.index(second)
                square[i, j] = square[j, i] = value
            maps.append((change_map(f"pairs-{measure}", columns, names, square, Scale(label, "0", caption)), caption))
    return maps


def _table(changes: pd.DataFrame, level: str, measure: str, labels: Sequence[str]) -> pd.DataFrame:
    """Returns the values of a measure, with a row for each name, in their order, and a column for each network."""
    rows = changes[(changes["level"] == level) & (changes["measure"] == measure)]
    table = rows.pivot(index="name", columns="network", values="value")
    return table.reindex(index=list(dict.fromkeys(rows["name"])), columns=list(labels))


def _totals(changes: pd.DataFrame, labels: Sequence[str]) -> list[tuple[str, dict[Any, Any]]]:
    """Returns (label, {measure: value over all parameters}) of each network."""
    total = changes[changes["level"] == "total"].pivot(index="network", columns="measure", values="value")
    by_label = total.to_dict("index")
    return [(label, by_label[label]) for label in labels]


def _batch_norm_rows(changes: pd.DataFrame, labels: Sequence[str]) -> list[tuple[str, dict[Any, Any]]]:
    """Returns (label, {quantity: root mean square of its shifts over all layers}) of networks with batch norm."""
    rows = changes[changes["level"] == "batch_norm"]
    if not len(rows):
        return []
    means = rows.assign(value=rows["value"] ** 2).groupby(["network", "measure"])["value"].mean() ** 0.5
    return [(label, {name: means.get((label, name)) for name in SHIFTS}) for label in labels]


def _changed_predictions(comparison: Comparison) -> pd.DataFrame:
    """Returns the images for which a network predicts another class than the reference, most confident first."""
    table = comparison.predictions
    if table is None:
        return pd.DataFrame()
    others = range(1, len(comparison.labels))
    differs = pd.concat([table[f"class_{i}"] != table["class_0"] for i in others], axis=1).any(axis=1)
    confidence = table[[f"probability_{i}" for i in others]].max(axis=1)
    return table[differs].loc[confidence[differs].sort_values(ascending=False, kind="stable").index]


def _activations(comparison: Comparison) -> Markup | None:
    """Returns the sections of activations, or None without images."""
    activations = comparison.activations
    if activations is None:
        return None
    reference, networks = comparison.labels[0], comparison.labels[1:]
    units = activations.units.pivot(index=["network", "tap"], columns="measure", values="value")
    units = units.reindex(activations.units.set_index(["network", "tap"]).index.unique()).reset_index()
    return render_fragment(
        "comparison_activations.html",
        reference=reference,
        num_images=activations.num_images,
        similarity=_similarity_maps(activations.similarity, reference),
        channels=units.to_dict("records"),
        changed_channels=[(label, _patches(activations, label)) for label in networks],
        saliency=[
            {
                "network": picture.network,
                "predicted": picture.predicted,
                "file": picture.file,
                "uris": [data_uri(picture.image), *(data_uri(saliency_image(m)) for m in picture.maps.values())],
            }
            for picture in sorted(activations.pictures, key=lambda picture: picture.file)
        ],
        features=[
            (label, feature_map(f"features-{i}", embeddings, activations.image_classes, (reference, label)))
            for i, (label, embeddings) in enumerate(activations.embeddings.items())
        ],
        first_filters=[(label, data_uri(filter_sheet(f))) for label, f in activations.first_filters.items()],
    )


def _similarity_maps(similarity: pd.DataFrame, reference: str) -> list[tuple[str, Markup]]:
    """Returns (network, map of the similarity of its taps to those of the reference) of each network."""
    maps: list[tuple[str, Markup]] = []
    for label, rows in similarity.groupby("network", sort=False):
        taps = list(dict.fromkeys(rows["tap"]))
        table = rows.pivot(index="reference_tap", columns="tap", values="value").reindex(index=taps, columns=taps)
        svg = similarity_map(f"similarity-{len(maps)}", taps, taps, table.to_numpy(float), f"{reference} and {label}")
        maps.append((str(label), svg))
    return maps


def _patches(activations: Activations, label: str) -> list[dict[str, Any]]:
    """Returns the changed channels of a network, with their patches as data URIs."""
    return [
        {
            "tap": unit.tap,
            "unit": unit.unit,
            "correlation": unit.correlation,
            "before": [data_uri(patch) for patch in unit.before],
            "after": [data_uri(patch) for patch in unit.after],
        }
        for unit in activations.changed_units
        if unit.network == label
    ]
