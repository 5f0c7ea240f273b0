"""Results of the analyses of the final weights (`config.analyses`), by setting."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from jaxft.analysis.statistics import mean_interval
from jaxft.report.context import ReportContext
from jaxft.report.figures.maps import Scale, change_map, setting_columns
from jaxft.report.methods import interval_text
from jaxft.report.template import render_fragment
from jaxft.store.tables import analyses_table


def make_analyses(context: ReportContext) -> Markup | None:
    """Returns the section, or None if the store has no results of analyses."""
    table = analyses_table(context.store)
    if not len(table):
        return None
    analyses = [
        {
            "name": str(name).replace("_", " "),
            "of_pairs": bool(rows["seeds"].str.contains(" ").any()),
            "totals": (totals := total_rows(context, rows)),
            "intervals": interval_text(context.plan, [row["num_values"] for row in totals]),
            "measures": list(dict.fromkeys(rows.loc[rows["level"] == "total", "measure"])),
            "maps": layer_maps(context, str(name), rows),
        }
        for name, rows in table.groupby("analysis", sort=False)
    ]
    return render_fragment("sections/analyses.html", analyses=analyses)


def total_rows(context: ReportContext, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns one row per setting: for each measure of the whole network, its mean, interval, minimum and maximum."""
    totals = rows[rows["level"] == "total"]
    result = []
    for setting in context.settings:
        of_setting = totals[totals["setting"] == setting.number]
        values = {str(measure): of.to_numpy(float) for measure, of in of_setting.groupby("measure")["value"]}
        if values:
            result.append(
                {
                    "setting": setting,
                    "num_values": max(map(len, values.values())),
                    "values": {
                        measure: {"interval": mean_interval(of), "low": np.nanmin(of), "high": np.nanmax(of)}
                        for measure, of in values.items()
                        if np.isfinite(of).any()
                    },
                }
            )
    return result


def layer_maps(context: ReportContext, analysis: str, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns a map of each measure of blocks, layers or leaves: the mean over seeds, by setting."""
    maps = []
    for measure, values in rows[rows["level"] != "total"].groupby("measure", sort=False):
        names = sorted(dict.fromkeys(values["name"]), key=lambda name: _position(context.plan["layers"], name))
        table = values.pivot_table(index="name", columns="setting", values="value", aggfunc="mean")
        matrix = table.reindex(index=names, columns=[s.number for s in context.settings]).to_numpy(dtype=np.float64)
        label = str(measure).replace("_", " ")
        scale = Scale(label, "0", f"{label} by setting, for each block, layer or leaf")
        svg = change_map(f"{analysis}-{measure}", setting_columns(context.settings), _shown(names), matrix, scale)
        maps.append({"svg": svg, "measure": label})
    return maps


def _position(layers: Sequence[str], name: str) -> int:
    """Returns the position in the network of a block, layer or leaf, from the names of the layers in their order."""
    return next(
        (i for i, layer in enumerate(layers) if f"{layer}/".startswith(f"{name}/") or name.startswith(f"{layer}/")),
        len(layers),
    )


def _shown(names: Sequence[str]) -> list[str]:
    """Returns the names of leaves without their last part, if all names end with it, as '/kernel'."""
    ends = {name.rpartition("/")[2] for name in names}
    return [name.rpartition("/")[0] or name for name in names] if ends == {"kernel"} else list(names)
