"""The learning curves of each setting."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from jaxft.analysis.statistics import mean_interval
from jaxft.core import interrupts
from jaxft.report.context import ReportContext
from jaxft.report.figures.curves import Curve, learning_curves
from jaxft.report.methods import interval_text
from jaxft.report.settings import Setting
from jaxft.report.template import render_fragment


def make_curves(context: ReportContext) -> Markup:
    """Returns the section, with one panel per setting."""
    return render_fragment(
        "sections/curves.html",
        curves=curve_figures(context),
        intervals=interval_text(context.plan, (s.done for s in context.settings)),
        best=context.best,
        settings=context.settings,
    )


def curve_figures(context: ReportContext) -> list[tuple[Setting, Markup]]:
    """Returns each setting with the figure of its learning curves; empty if no trial is done.

    Settings without epochs, such as classifiers of features, are omitted.
    """
    results, settings = context.results, context.settings
    curves = {}
    for setting in settings:
        interrupts.check()
        done = results[(results["setting"] == setting.number) & (results["status"] == "done")]
        arrays = [context.store.arrays("trials", digest) for digest in done["trial"]]
        if arrays and not len(arrays[0]["epoch"]):
            settings = [other for other in settings if other is not setting]
        elif arrays:
            epoch = arrays[0]["epoch"]
            accuracy, loss = ([a[name] for a in arrays] for name in ("val_accuracy", "train_loss"))
            curves[setting.number] = mean_curve(epoch, accuracy), mean_curve(epoch, loss)
    if not curves:
        return []
    selected = None if context.best is None else context.best.number
    return list(zip(settings, learning_curves("curve", settings, curves, selected, context.chance)))


def mean_curve(epoch: np.ndarray, curves: Sequence[np.ndarray]) -> Curve:
    """Returns the mean of `curves`, each [epochs], with its interval, at each epoch over the finite values."""
    length = min(len(epoch), *(len(curve) for curve in curves))
    stacked = np.stack([curve[:length] for curve in curves]).astype(np.float64)
    stacked[~np.isfinite(stacked)] = math.nan
    intervals = [mean_interval(column) for column in stacked.T]
    mean, half_width = (np.array([getattr(v, name) for v in intervals]) for name in ("mean", "half_width"))
    return Curve(epoch[:length], mean, half_width)
