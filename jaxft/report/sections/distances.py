"""L2 distances between the final weights of all pairs of runs."""

from typing import Any

import numpy as np
from markupsafe import Markup

from jaxft.report.context import ReportContext
from jaxft.report.figures.maps import distance_map
from jaxft.report.template import render_fragment


def make_distances(context: ReportContext) -> Markup:
    """Returns the section."""
    figure = distance_figure(context) or {"svg": None, "runs": 0}
    return render_fragment("sections/distances.html", **figure, finished=context.counts["finished"])


def distance_figure(context: ReportContext) -> dict[str, Any] | None:
    """Returns the map of distances over the backbone, with runs ordered by setting and seed; None if not measured."""
    pairwise = context.store.pairwise()
    if pairwise is None:
        return None
    setting_and_seed = {trial["trial"]: (trial["setting"], trial["seed"]) for trial in context.plan["trials"]}
    order = sorted(range(len(pairwise["trials"])), key=lambda i: setting_and_seed[pairwise["trials"][i]])
    head = pairwise.get("head", "head")  # older records do not contain its name
    backbone = [not f"{layer}/".startswith(f"{head}/") for layer in pairwise["layers"]]
    squares = np.square(pairwise["distances"][backbone].astype(np.float64))
    distances = np.sqrt(squares.sum(axis=0))[np.ix_(order, order)]
    setting_of_run = [setting_and_seed[pairwise["trials"][i]][0] for i in order]
    return {"svg": distance_map("distance", context.settings, setting_of_run, distances), "runs": len(order)}
