"""Parameter change by layer: a map of each measure that has a label."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from jaxft.analysis.measures import MEASURES, Measure
from jaxft.core.registry import Entry
from jaxft.report.context import ReportContext
from jaxft.report.figures.maps import MAX_NAMED_LAYERS, Scale, change_map, setting_columns
from jaxft.report.template import render_fragment

KEYS = ("trial", "setting", "seed", "layer")
MAIN = "relative_l2"  # the measure with a separate caption


def make_change(context: ReportContext) -> Markup:
    """Returns the section."""
    changes = context.store.changes()
    done = context.results.loc[context.results["status"] == "done", "trial"]
    changes = changes[changes["trial"].isin(done)] if len(changes) else changes
    maps = [measure_map(context, changes, name) for name in changes.columns if name not in KEYS and is_drawn(name)]
    return render_fragment(
        "sections/change.html",
        maps=[drawn_map for drawn_map in maps if drawn_map],
        every_second=len(context.plan["layers"]) > MAX_NAMED_LAYERS,
    )


def is_drawn(measure: str) -> bool:
    """Returns whether the page has a map of a measure: if it has a label, or if its plug-in is not loaded."""
    return measure not in MEASURES or bool(MEASURES[measure].value.label)


def measure_map(context: ReportContext, changes: pd.DataFrame, measure: str) -> dict[str, Any] | None:
    """Returns the map of a measure by layer and setting, with the values of its caption; None without measurements."""
    measured = changes.assign(**{measure: pd.to_numeric(changes[measure])})
    table = measured.pivot_table(index="layer", columns="setting", values=measure, aggfunc="mean")
    layers = [layer for layer in context.plan["layers"] if layer in table.index]
    if not layers:
        return None
    values = table.reindex(index=layers, columns=[s.number for s in context.settings]).to_numpy(dtype=np.float64)
    columns = setting_columns(context.settings)
    if measure == MAIN:
        scale = Scale(MEASURES[MAIN].value.label, "unchanged", "Relative change of the weights by layer and setting")
        return {"measure": MAIN, "svg": change_map("change", columns, layers, values, scale), "help": ""}
    entry = MEASURES[measure] if measure in MEASURES else Entry(measure, Measure(lambda _: None))
    label = entry.value.label or measure.replace("_", " ")
    svg = change_map(f"change-{measure}", columns, layers, values, Scale(label, "0", f"{label} by layer"))
    return {"measure": measure, "svg": svg, "help": entry.help or label}
